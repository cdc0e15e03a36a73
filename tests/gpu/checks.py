"""What `test_stand_in.py` runs with the stand-in for a GPU: the device, training and inference on it, and waits.

Waits: a training step must not wait for the GPU (the program would wait in place of preparing the next step).
"""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks import gpu as benchmark
from benchmarks.scaling import Counts, Workload, memory
from benchmarks.train_step import CASES, Case, Timed
from tests.arc_tasks import TASK, arc_model, write_json
from tests.evaluation.test_arc_tasks import CONFIG, splits
from tests.inference.test_trace import QUESTION, traced
from tests.networks import evaluate_params, inference_config
from tests.training.test_training_options import NETWORKS, OPTIONS
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.evaluation.arc_tasks import read_arc_tasks
from trm.evaluation.arc_tasks import train_params as arc_train_params
from trm.evaluation.evaluate import evaluate
from trm.inference.cost import resolve_batch_size
from trm.inference.engine import predict
from trm.models.act import build_model
from trm.models.variants import VARIANTS
from trm.training.adaptation import adapt
from trm.training.checkpoint import FILE
from trm.training.step import new_state, train_step
from trm.training.trainer import train
from trm.training.validation import to_tensors

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GPU: Any = torch.cuda
"""With the functions of the stand-in that torch does not have."""


def waits() -> int:
    """How often the program has waited for the GPU."""
    return GPU.waits()


@contextmanager
def limited_memory(free: int) -> Iterator[None]:
    """Let new tensors use `free` bytes during the block."""
    GPU.set_memory(torch.cuda.memory_allocated() + free)
    try:
        yield
    finally:
        GPU.set_memory()


def test_tensors_of_different_devices_are_refused() -> None:
    on_gpu = torch.ones(3, device=CUDA)
    assert (on_gpu + torch.tensor(2.0)).tolist() == [3.0, 3.0, 3.0]  # scalars may be on the CPU
    for run in (lambda: on_gpu + torch.ones(3), lambda: torch.cat([on_gpu, torch.ones(3)])):
        with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
            run()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda gpu, _: gpu * 2 + 1, False),
        (lambda gpu, _: gpu.sum().item(), True),
        (lambda gpu, _: bool(gpu.any()), True),
        (lambda gpu, _: gpu.cpu(), True),
        (lambda gpu, _: gpu[gpu > 0], True),
        (lambda gpu, _: gpu.nonzero(), True),
        (lambda gpu, cpu: gpu[cpu[:2].long()], True),
        (lambda gpu, _: gpu[gpu.long()], False),
        (lambda _, cpu: cpu.to(CUDA), True),
        (lambda _, cpu: cpu.to(CUDA, non_blocking=True), True),
        (lambda _, cpu: cpu[:9].to(CUDA, non_blocking=True), False),
        (lambda _, cpu: cpu.pin_memory().to(CUDA, non_blocking=True), False),
    ],
)
def test_waits(run: Any, expected: bool) -> None:  # noqa: ANN401
    gpu, cpu = torch.zeros(9, device=CUDA), torch.zeros(20_000)
    before = waits()
    run(gpu, cpu)
    assert (waits() > before) is expected


def test_memory() -> None:
    before = torch.cuda.memory_allocated()
    kept = torch.zeros(1000, device=CUDA)
    view = kept[:10]
    doubled = kept * 2
    assert torch.cuda.memory_allocated() - before == 8000
    del kept, doubled
    assert torch.cuda.memory_allocated() - before == 4000
    with limited_memory(4000):
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.zeros(1001, device=CUDA)
        torch.zeros(1000, device=CUDA)
    assert view.tolist() == [0.0] * 10


@given(options=st.fixed_dictionaries(OPTIONS), network=st.fixed_dictionaries(NETWORKS))
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_steps_equal_those_of_a_cpu_and_do_not_wait(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    options: dict[str, Any],
    network: dict[str, Any],
) -> None:
    puzzle_emb = {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}
    params = ModelParams(**{**model_params.model_dump(), **network, **puzzle_emb, "num_heads": 4})
    optimizer = train_params.optimizer.model_copy(update={"network": options.pop("network")})
    changed = train_params.model_copy(update={**options, "optimizer": optimizer})
    if changed.winner_takes_all > 1 and not VARIANTS[params.arch].random_states(params.random_start):
        return
    examples = collate(read_split(dataset / "train"), np.array([0, 4, 8, 12]))
    losses: dict[torch.device, list[float]] = {}
    for device in (CPU, CUDA):
        batch = to_tensors(examples, device)
        state = new_state(params, read_meta(dataset), changed, batch, torch.float32)
        before = waits()
        found = [train_step(state, state.model, batch, START, changed, 3) for _ in range(3)]
        assert waits() == before
        losses[device] = [loss.item() for loss in found]
    assert losses[CUDA][0] == pytest.approx(losses[CPU][0], rel=1e-5)
    assert losses[CUDA] == pytest.approx(losses[CPU], rel=1e-2)  # optimizers enlarge differences of rounding


def test_a_training_only_waits_to_log_and_to_save(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The number of waits does not grow with the number of steps: 40 steps, and 80."""
    GPU.set_small_copies(32)  # batches are larger, like real ones
    request.addfinalizer(lambda: GPU.set_small_copies(64 * 1024))
    counts, seldom = [], 10**6
    rare = {"device": "cuda", "log_interval": seldom, "checkpoint_interval": seldom, "eval_interval": seldom}
    for epochs in (8, 16):
        changed = train_params.model_copy(update={**rare, "epochs": epochs, "max_hints": 0.5})
        before = waits()
        facts = train(model_params, changed, dataset, tmp_path, f"{epochs} epochs")
        assert (facts["device"], facts["steps"]) == ("cuda", 5 * epochs)
        counts.append(waits() - before)
    assert counts[0] == counts[1] > 0


def test_an_adaptation_only_waits_at_its_end(model_params: ModelParams, tmp_path: Path) -> None:
    (task,) = read_arc_tasks(write_json(tmp_path / "task.json", TASK))
    meta, split, _ = splits(task)
    source, counts, tables = arc_model(model_params), [], {}
    for device, steps in ((CPU, 3), (CUDA, 3), (CUDA, 6)):
        model = copy.deepcopy(source).to(device)
        before = waits()
        result, _ = adapt(model, meta, split, arc_train_params(CONFIG, 0), steps)
        counts.append(waits() - before)
        tables[device, steps] = result.puzzle_table.cpu()
    assert counts[1] == counts[2]
    assert torch.allclose(tables[CPU, 3], tables[CUDA, 3], atol=1e-6)
    assert not torch.equal(tables[CUDA, 3], tables[CUDA, 6])


@pytest.mark.parametrize("mlp_t", [True, False])
def test_training_and_evaluation_equal_those_of_a_cpu(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path, mlp_t: bool
) -> None:
    params = model_params.model_copy(update={"mlp_t": mlp_t, "pos_encodings": "none" if mlp_t else "rope"})
    metrics = []
    for device in ("cpu", "cuda"):
        model, out = tmp_path / device, tmp_path / f"evaluation-{device}"
        model.mkdir()
        out.mkdir()
        train(params, train_params.model_copy(update={"device": device}), dataset, model, device)
        settings = evaluate_params(max_steps=4, num_votes=3, pass_at_k=(1,), latent_noise_std=0.1, num_samples=2)
        settings = settings.model_copy(update={"device": device, "verify": True})
        metrics.append(evaluate(settings, dataset, model, out, device)["metrics"])
    weights = [load_file(tmp_path / device / FILE) for device in ("cpu", "cuda")]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-4), name
    assert metrics[0] == metrics[1]


def test_an_inference_that_exceeds_the_memory(
    meta: DatasetMeta, model_params: ModelParams, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(model_params, meta).eval().to(CUDA)
    tokens = np.random.default_rng(0).integers(1, 6, (512, 16)).astype(np.uint8)
    whole = predict(model, tokens, np.zeros(512, int), inference_config(2), 512)
    torch.cuda.reset_peak_memory_stats()
    predict(model, tokens[:128], np.zeros(128, int), inference_config(2), 128)
    with limited_memory(torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated() + 1):
        found = predict(model, tokens, np.zeros(512, int), inference_config(2), 512)
    assert "exceed the memory of the GPU" in capsys.readouterr().err
    assert np.array_equal(found.tokens, whole.tokens)


def test_memory_of_a_training_step() -> None:
    """At most that of docs/scaling.md, which a step of the default experiment uses by more than 80 %.

    Of attention the stand-in keeps the weights, which a fused kernel does not.
    """
    settings = benchmark.settings_for("cuda", "bfloat16")
    before = torch.cuda.memory_allocated()
    timed = Timed("default", CASES["default"], 32, settings, compiled=False)
    del timed.average, timed.evaluated, timed.carry  # of the evaluation
    timed.train()
    torch.cuda.reset_peak_memory_stats()
    timed.train()
    peak = torch.cuda.max_memory_allocated() - before
    work = Workload.of(timed.model, timed.meta, timed.settings, Counts(groups=1, puzzles=1, examples=1, identifiers=1))
    part, uses = memory(work, 1, math.inf)
    assert part == 32
    assert 0.8 < peak / sum(uses.values()) < 1


@pytest.mark.parametrize("free", [2_000_000, 8_000_000])
def test_automatic_batch_size_fits_into_the_memory(
    meta: DatasetMeta, model_params: ModelParams, free: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_model(model_params, meta).eval().to(CUDA)
    config = inference_config(2, num_samples=2, latent_noise_std=0.1)
    before = torch.cuda.memory_allocated()
    with limited_memory(free):
        size = resolve_batch_size("auto", model, config)
        torch.cuda.reset_peak_memory_stats()
        seeds = [[number] for number in range(size)]
        predict(model, np.ones((size, 16), np.uint8), np.zeros(size, int), config, size, seeds=seeds)
    assert capsys.readouterr().err == ""  # the batch was not halved
    assert 0.2 * free < torch.cuda.max_memory_allocated() - before < free


@pytest.mark.parametrize("selection", ["votes", "halt_logit", "settled"])
def test_traces_equal_those_of_a_cpu(meta: DatasetMeta, model_params: ModelParams, selection: str) -> None:
    model = build_model(model_params.model_copy(update={"random_start": "all"}), meta).eval()
    config = inference_config(3, selection=selection, num_votes=3, num_samples=2, latent_noise_std=0.1)
    expected, expected_frames = traced(model, meta, QUESTION, config)
    found, frames = traced(model.to(CUDA), meta, QUESTION, config)
    assert np.array_equal(found.grid, expected.grid)
    assert len(frames) == len(expected_frames) > 0


def test_the_benchmark_measures_all_parts_and_reports_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small networks; the stand-in has no torch.compile."""
    small = {"hidden_size": 16, "num_heads": 2, "H_cycles": 2, "L_cycles": 1}
    monkeypatch.setattr(benchmark, "CASES", dict.fromkeys(benchmark.CASES, Case("sudoku-4x4", 4, small)))
    monkeypatch.setattr(benchmark, "PUBLISHED_BATCH", dict.fromkeys(benchmark.CASES, 4))
    monkeypatch.setattr(torch, "compile", lambda module, mode="": 1 / 0 if mode else module)  # no CUDA graphs
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    products = benchmark.products
    monkeypatch.setattr(benchmark, "products", lambda device, _: products(device, 64))
    monkeypatch.setattr(benchmark, "start", lambda *_: 1 / 0)  # its programs would not have the stand-in
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: resume; "):
        benchmark.main()
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert all(row["logits"] < 1e-5 for row in parts["parity"] if row["precision"] == "float32")
    assert len(parts["steps"]) == 24
    for row in parts["steps"]:
        assert "ZeroDivisionError" in row["error"] if row["mode"] == "graphs" else row["waits"] == 0
    assert "ZeroDivisionError" in parts["resume"][0]["error"]
    assert "ZeroDivisionError" in (tmp_path / "gpu.md").read_text()


def test_waits_of_a_run() -> None:
    value = torch.ones(3, device=CUDA)
    assert benchmark.waits_of(lambda: [value.sum().item() for _ in range(3)]) == 3
    assert benchmark.waits_of(lambda: value + 1) == 0
