import csv
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trm.config.model import LmaParams, ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.inference.solve import solve
from trm.models.act import Batch
from trm.models.variants import VARIANTS
from trm.training import step as one_step
from trm.training import trainer as loop
from trm.training.checkpoint import FILE, load_checkpoint, read_header, read_settings
from trm.training.distributed import SINGLE_PROCESS
from trm.training.losses import Losses
from trm.training.schedule import learning_rate
from trm.training.state_folder import StateFolder
from trm.training.step import network_of, new_state, train_step
from trm.training.trainer import train
from trm.training.validation import to_tensors, validate
from trm.utils.errors import InternalError, Interrupted, UserError
from trm.utils.paths import states_folder

LMA = {"enable": True, "mode": "unclean", "length": 32, "dim": 8, "heads": 2}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _changed(params: TrainParams, **changes: object) -> TrainParams:
    return params.model_copy(update=changes)


def test_a_batch_can_be_overfitted(dataset: Path, model_params: ModelParams, train_params: TrainParams) -> None:
    """The final loss is far below the limit for all initial weights and processors."""
    settings = _changed(train_params, lr=1e-2, ema_rate=0.9, weight_decay=0.0)
    split, meta = read_split(dataset / "train"), read_meta(dataset)
    batch = to_tensors(collate(split, np.array([0, 4, 8, 12])), torch.device("cpu"))
    state = new_state(model_params, meta, settings, batch, torch.float32)
    losses = [train_step(state, state.model, batch, START, settings, 400) for _ in range(400)]
    assert losses[0] > 1
    assert np.mean(losses[-4:]) < 0.05
    tokens, halt_logit, _ = state.average.answer(batch, 4)
    assert torch.equal(tokens, batch["labels"])
    assert (halt_logit > 0).all()


@pytest.mark.parametrize("arch", [*VARIANTS, "lma"])
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_every_variant_overfits_a_batch(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, arch: str, loss: str
) -> None:
    """The loss of one puzzle falls to less than half; far less in practice."""
    changes = {"lma": LmaParams(**LMA)} if arch == "lma" else {"arch": arch}
    params = model_params.model_copy(update={**changes, "q_continue_loss": loss == "softmax"})
    settings = _changed(train_params, loss=loss, lr=1e-2, weight_decay=0.0)
    batch = to_tensors(collate(read_split(dataset / "train"), np.zeros(4, int)), torch.device("cpu"))
    state = new_state(params, read_meta(dataset), settings, batch, torch.float32)
    losses = [train_step(state, state.model, batch, START, settings, 120) for _ in range(120)]
    assert np.mean(losses[-4:]) < losses[0] / 2


def test_only_rows_of_the_batch_change_in_the_puzzle_table(
    dataset: Path, model_params: ModelParams, train_params: TrainParams
) -> None:
    params = model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1})
    meta = read_meta(dataset).model_copy(update={"num_identifiers": 5})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    batch["puzzle_identifiers"] = torch.tensor([3, 1, 3, 3], dtype=torch.int32)
    settings = _changed(train_params, lr_warmup_steps=4)
    state = new_state(params, meta, settings, batch, torch.float32)
    train_step(state, state.model, batch, START, settings, 10)
    moved = state.model.puzzle_table
    assert moved[[0, 2, 4]].abs().max() == 0
    # Step 1 of 4 warm-up steps: sign(g) times a quarter of 1e-2.
    assert torch.allclose(moved[[1, 3]].abs(), torch.tensor(1e-2 / 4))


def test_log_and_model(dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path) -> None:
    settings = _changed(train_params, lr_warmup_steps=10, lr_min_ratio=0.1)
    out = tmp_path / "out"
    out.mkdir()
    facts = train(model_params, settings, dataset, out, "key")
    # 20 groups, 8 epochs, batches of 4: 40 steps; a line every 3 and one for the last.
    log = _rows(out / "train.tsv")
    assert [int(row["step"]) for row in log] == [*range(3, 40, 3), 40]
    assert [float(row["lr"]) for row in log] == pytest.approx(
        [learning_rate(int(row["step"]), 3e-3, 10, 40, 0.1) for row in log]
    )
    assert all(math.isfinite(float(row["loss"])) for row in log)
    assert log[0]["exact_accuracy"] == ""  # no sequence halts in the first three steps
    scores = _rows(out / "validation.tsv")
    assert [(int(row["step"]), int(row["epoch"])) for row in scores] == [(10, 2), (20, 4), (30, 6), (40, 8)]
    best = max(scores, key=lambda row: (float(row["exact_accuracy"]), float(row["cell_accuracy"]), -int(row["step"])))
    assert facts["best_step"] == int(best["step"])
    assert read_settings(out).facts["step"] == int(best["step"])
    model, meta = load_checkpoint(out)
    again = validate(model, read_split(dataset / "validation"), 4, 4)
    assert again["cell_accuracy"] == pytest.approx(float(best["cell_accuracy"]), rel=1e-7)
    assert meta == read_meta(dataset)


def test_without_validation_groups_the_last_weights_are_saved(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    bare, out = tmp_path / "bare", tmp_path / "out"
    bare.mkdir()
    out.mkdir()
    (bare / "train").symlink_to(dataset / "train")
    (bare / "meta.json").symlink_to(dataset / "meta.json")
    facts = train(model_params, _changed(train_params, ema_rate=0.0), bare, out, "key")
    assert facts["best_step"] == 40
    assert not (out / "validation.tsv").exists()
    raw, _ = load_checkpoint(out, weights="raw")
    average, _ = load_checkpoint(out)  # ema_rate 0: the average is the last weights
    assert all(torch.equal(a, b) for a, b in zip(raw.parameters(), average.parameters(), strict=True))


def test_runs_are_reproducible(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    bytes_of = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        out = tmp_path / name
        out.mkdir()
        train(model_params, _changed(train_params, seed=seed), dataset, out, f"key-{name}")
        bytes_of.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0][FILE] != bytes_of[2][FILE]


@pytest.mark.parametrize("moment", ["between steps", "inside an update"])
@pytest.mark.parametrize("q_continue_loss", [False, True])
def test_resumed_run_equals_uninterrupted_run(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    q_continue_loss: bool,
    moment: str,
) -> None:
    params = model_params.model_copy(
        update={"q_continue_loss": q_continue_loss, "puzzle_emb_ndim": 8, "puzzle_emb_len": 1}
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    train(params, train_params, dataset, whole, "whole")
    name = {"between steps": "train_step", "inside an update": "update_ema"}[moment]
    module = loop if name == "train_step" else one_step
    real, calls = getattr(module, name), []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) % 3 == 0:  # the log interval: some rows are due in the step that is interrupted
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(module, name, interrupted)
    stops = 0
    while True:
        parts.mkdir()
        try:
            train(params, train_params, dataset, parts, "parts")
            break
        except Interrupted as stop:
            assert stop.signal == signal.SIGTERM
            assert not any(parts.iterdir())
            parts.rmdir()
            stops += 1
    assert stops == len(calls) // 3 >= 12
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in parts.iterdir()
    }
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_time_limit(dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path) -> None:
    """Each start takes one step, saves the state and ends; the last one publishes the bytes of a run without limit."""
    settings = _changed(train_params, epochs=2)
    published = []
    for name, limit in (("whole", None), ("limited", 1e-9)):
        out, stops = tmp_path / name, list[str]()
        out.mkdir()
        while True:
            try:
                train(model_params, _changed(settings, max_seconds=limit), dataset, out, name)
                break
            except Interrupted as stop:
                stops.append(str(stop))
        published.append({path.name: path.read_bytes() for path in out.iterdir()})
        expected = range(1, 11) if limit else ()
        assert stops == [
            f"train.max_seconds has passed; the state of step {step} of 10 is saved, the same command resumes"
            for step in expected
        ]
    assert published[0] == published[1]


NAN_LOSS: dict[str, dict[str, int]] = {
    "a CPU": {},
    "a GPU, log line": {},
    "a GPU, saved state": {"log_interval": 100},
    "a GPU, validation": {"log_interval": 100, "checkpoint_interval": 8},
    "a GPU, end": {"log_interval": 100, "checkpoint_interval": 100, "eval_interval": 100},
}
"""Device and what is due first after step 7 -> changed settings."""


@pytest.mark.parametrize("case", NAN_LOSS)
def test_non_finite_loss_stops_the_run(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    """The error names the step, also if a GPU finds it later, and the batch of the step is saved."""
    for module in (loop, one_step):
        monkeypatch.setattr(module, "reads_are_free", lambda _: case == "a CPU")
    real, real_step = one_step.supervision_loss, loop.train_step
    calls: list[int] = []
    batches: list[Batch] = []

    def poisoned(*args: object, **options: object) -> object:
        calls.append(1)
        losses = real(*args, **options)  # pyright: ignore[reportArgumentType]
        return Losses(losses.total * math.nan, losses.sums * math.nan) if len(calls) == 7 else losses

    def recorded(*args: Any) -> object:  # noqa: ANN401
        batches.append(args[2])
        return real_step(*args)

    monkeypatch.setattr(one_step, "supervision_loss", poisoned)
    monkeypatch.setattr(loop, "train_step", recorded)
    file = states_folder() / "key/non-finite-loss-7.safetensors"
    message = f"step 7, process 0 of 1: the loss is nan, its batch is in {file}; lower train.lr"
    with pytest.raises(InternalError, match=f"^{message}"):
        train(model_params, _changed(train_params, **NAN_LOSS[case]), dataset, tmp_path, "key")
    assert not (tmp_path / FILE).exists()
    assert StateFolder(states_folder() / "key").newest_step() < 7
    saved = load_file(file)
    assert saved.keys() == batches[6].keys()
    assert all(torch.equal(saved[name], tensor.cpu()) for name, tensor in batches[6].items())
    assert read_header(file) == {"non_finite_loss": "nan", "step": 7, "rank": 0}


def test_too_large_batch_is_rejected(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="train.global_batch_size: 8 epochs of 20 groups do not fill a batch of 161"):
        train(model_params, _changed(train_params, global_batch_size=161), dataset, tmp_path, "key")
    assert not (tmp_path / "states").exists()


@pytest.mark.parametrize("arch", [*VARIANTS, "lma"])
@pytest.mark.parametrize("loss", ["stablemax", "softmax"])
def test_every_variant_trains_and_resumes(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
    loss: str,
) -> None:
    """Softmax loss with continue loss, micro-batches, validation of the EMA weights, one interruption."""
    changes = {"lma": LmaParams(**LMA)} if arch == "lma" else {"arch": arch}
    params = model_params.model_copy(
        update={**changes, "q_continue_loss": loss == "softmax", "mlp_t": loss == "softmax"}
    )
    settings = _changed(train_params, loss=loss, micro_batch_size=3, epochs=4)
    real, calls = loop.train_step, []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 7 + 20:  # of the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loop, "train_step", interrupted)
    (tmp_path / "whole").mkdir()
    train(params, settings, dataset, tmp_path / "whole", "whole")
    (tmp_path / "parts").mkdir()
    with pytest.raises(Interrupted):
        train(params, settings, dataset, tmp_path / "parts", "parts")
    train(params, settings, dataset, tmp_path / "parts", "parts")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()
    log = _rows(tmp_path / "whole/train.tsv")
    assert all(math.isfinite(float(row["loss"])) for row in log)
    assert (float(log[0]["q_continue_loss"]) > 0) == (loss == "softmax" or arch == "hrm")
    model, meta = load_checkpoint(tmp_path / "whole")
    assert model.config == params
    solve(model, meta, [[[0] * 4] * 4], max_steps=2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler for the CPU")
@pytest.mark.filterwarnings("ignore")  # torch.compile emits several warnings
@pytest.mark.parametrize("arch", ["trm_hier6", "hrm"])
def test_compiled_gradients_are_the_same(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, arch: str
) -> None:
    params = model_params.model_copy(update={"arch": arch, "halt_exploration_prob": 0.0})
    batch = to_tensors(collate(read_split(dataset / "train"), np.array([0, 4, 8, 12])), torch.device("cpu"))
    gradients = []
    for compiled in (False, True):
        model = new_state(params, read_meta(dataset), train_params, batch, torch.float32).model
        carry, out = network_of(model, train_params, SINGLE_PROCESS, compiled)(model.initial_carry(batch), batch)
        one_step.supervision_loss(carry, out, "stablemax", 4).total.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for plain, other in zip(*gradients, strict=True):
        assert torch.allclose(plain, other, atol=1e-4 * plain.abs().max().item())
