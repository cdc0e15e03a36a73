"""Training under torchrun with gloo: the results equal those of one process, and all processes end."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.integration.torchrun_experiment import STEPS, Experiment
from tests.params import edit_params
from tests.preload import python
from trm.storage.artifacts import write_manifest
from trm.training.checkpoint import load_checkpoint
from trm.training.state_folder import StateFolder
from trm.utils.paths import file_digest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the dataset with a manifest."""
    folder = tmp_path_factory.mktemp("published") / "dataset"
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns("manifest.json"))
    write_manifest(folder, {"stage": "augment", "key": "0" * 64, "params": {"data": {"name": "sudoku"}}})
    return folder


@pytest.fixture(scope="module")
def single(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    experiment = Experiment(tmp_path_factory.mktemp("single") / "run", published)
    experiment.train(1)
    return experiment


COUNTED = {"cell_accuracy", "exact_accuracy", "halt_accuracy"}


def assert_same_training(one: Experiment, other: Experiment, within: float = 1e-4, steps: int = STEPS) -> None:
    """All losses are equal. Accuracies may differ by one cell in at most two steps: with nearly equal logits, the
    predicted token depends on rounding.
    """
    lines, others = one.log(), other.log()
    assert len(lines) == len(others) == steps
    flips = set()
    for line, its in zip(lines, others, strict=True):
        for name, value in line.items():
            assert (value == "") == (its[name] == ""), name
            if value == "" or float(its[name]) == pytest.approx(float(value), abs=within):
                continue
            assert name in COUNTED, (line["step"], name, value, its[name])
            flips.add(line["step"])
        if line["cell_accuracy"]:
            assert float(its["cell_accuracy"]) == pytest.approx(float(line["cell_accuracy"]), abs=1 / 16 + within)
    assert len(flips) <= 2


def test_several_processes_equal_one(single: Experiment, published: Path, tmp_path: Path) -> None:
    several = Experiment(tmp_path / "run", published)
    out = several.train(4)
    assert_same_training(single, several)
    manifest = json.loads((several.folder / "model/manifest.json").read_text())
    assert manifest["facts"]["processes"] == 4
    assert manifest["key"] == json.loads((single.folder / "model/manifest.json").read_text())["key"]
    assert out.count("train: 50 done") == 1  # only the main process prints


def test_two_networks_train_in_two_processes(published: Path, tmp_path: Path) -> None:
    one, two = (
        Experiment(tmp_path / name, published, {"model.arch": "hrm", "train.epochs": 4}) for name in ("one", "two")
    )
    one.train(1)
    two.train(2)
    assert_same_training(one, two, steps=10)


ADAM = {"name": "adam_atan2", "beta1": 0.9, "beta2": 0.95, "weight_decay": 1.0, "fused": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "optimization": {
        "train.optimizer.network": {"name": "muon", "lr": 0.01, "momentum": 0.95, "weight_decay": 0.0, "others": ADAM},
        "train.label_smoothing": 0.2,
        "train.halt_loss_weight": 0.05,
        "train.max_grad_norm": 1.0,
        "train.depth_schedule": [{"until": 0.5, "H_cycles": 1, "L_cycles": 1}],
    },
    "network": {
        "model.swiglu": "normed",
        "model.gradient_passes": 2,
        "model.register_tokens": 1,
        "model.pos_encodings": "rope_2d",
        "train.online_augmentation": True,
        "train.max_hints": 0.3,
    },
}
"""Training methods that are off in SETTINGS."""
NOISE = {
    "model.random_start": "latents",
    "model.update_damping": 0.05,
    "model.update_noise": 0.01,
    "train.winner_takes_all": 2,
    "train.carry_pool": 2,
    "train.epochs": 4,
}


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_training_methods_in_two_processes(published: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    one, two = (Experiment(tmp_path / name, published, {**changes, "train.epochs": 4}) for name in ("one", "two"))
    one.train(1)
    two.train(2)
    # Muon computes in bfloat16, which amplifies the rounding of the sums over processes.
    assert_same_training(one, two, within=1e-3, steps=10)


def test_noise_in_two_processes_is_reproducible(published: Path, tmp_path: Path) -> None:
    """It depends on the part of the batch that a process has, so that one process has other noise."""
    models = []
    for name in ("one", "two"):
        experiment = Experiment(tmp_path / name, published, NOISE)
        experiment.train(2)
        models.append((experiment.folder / "model/checkpoint.safetensors").read_bytes())
    assert models[0] == models[1]


def test_frozen_network_in_two_processes(single: Experiment, published: Path, tmp_path: Path) -> None:
    file = single.folder / "model/checkpoint.safetensors"
    init_from = {"model": str(file.parent), "sha256": file_digest(file), "reset_puzzle_emb": False}
    changes = {"train.init_from": init_from, "train.freeze_weights": True, "train.epochs": 4}
    frozen = Experiment(tmp_path / "run", published, changes)
    frozen.train(2)
    before, after = (load_checkpoint(folder / "model")[0] for folder in (single.folder, frozen.folder))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert not torch.equal(before.puzzle_table, after.puzzle_table)


def test_micro_batches_equal_the_full_batch(single: Experiment, published: Path, tmp_path: Path) -> None:
    for size, processes in ((3, 1), (2, 2)):
        parts = Experiment(tmp_path / f"run{size}", published, {"train.micro_batch_size": size})
        parts.train(processes)
        assert_same_training(single, parts)


def test_interrupted_run_resumes_reproducibly(published: Path, tmp_path: Path) -> None:
    whole, stopped = Experiment(tmp_path / "whole", published), Experiment(tmp_path / "stopped", published)
    whole.train(2)
    process = stopped.start(2, "train", "--dataset", str(published), "--model", "model", program=python())
    stopped.stop_after(process, 20, signal.SIGTERM)
    assert process.returncode != 0
    assert not (stopped.folder / "model").exists()
    seen = stopped.steps_done()
    assert 20 <= seen < STEPS
    stopped.train(2)
    for name in ("checkpoint.safetensors", "train.tsv", "validation.tsv"):
        assert (stopped.folder / "model" / name).read_bytes() == (whole.folder / "model" / name).read_bytes()


def test_a_state_resumes_on_any_number_of_processes(single: Experiment, published: Path, tmp_path: Path) -> None:
    moved = Experiment(tmp_path / "run", published)
    for processes, steps in ((2, 10), (1, 20)):
        process = moved.start(processes, "train", "--dataset", str(published), "--model", "model", program=python())
        moved.stop_after(process, steps, signal.SIGTERM)
        assert moved.steps_done() >= steps
    moved.train(4)
    assert_same_training(single, moved)


def test_all_processes_stop_if_one_is_killed(published: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "run", published, {"train.epochs": 2000})
    process = experiment.start(2, "train", "--dataset", str(published), "--model", "model")
    while experiment.steps_done() < 10:
        assert process.poll() is None
        time.sleep(0.01)
    workers = _workers(process)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert not [pid for pid in workers if _runs(pid)]
    assert not (experiment.folder / "model").exists()


@pytest.mark.parametrize("delay", [0.3, 6.0], ids=["while torch is imported", "while it connects"])
def test_a_process_whose_torchrun_is_killed_does_not_wait(published: Path, tmp_path: Path, delay: float) -> None:
    """Before the processes have met: the connection to torchrun's store would be tried for ten minutes."""
    experiment = Experiment(tmp_path / "run", published)
    address = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "a",
    }
    command = [sys.executable, "-m", "trm", "train", "--dataset", str(published), "--model", "model"]
    parent = f"import subprocess, time; subprocess.Popen({command}, start_new_session=True); time.sleep(600)"
    environment = os.environ | address | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=experiment.folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (workers := _workers(process)):
        time.sleep(0.01)
    time.sleep(delay)
    assert _runs(workers[0])
    process.kill()
    _, errors = process.communicate(timeout=60)  # the worker holds the pipe
    assert "torchrun ended before its processes met; start it again" in errors
    deadline = time.monotonic() + 20
    while _runs(workers[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _workers(process: subprocess.Popen[str]) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    return [int(pid) for pid, parent in map(str.split, listed.splitlines()) if int(parent) == process.pid]


def test_result_after_four_kills_equals_uninterrupted_run(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it, restarted process groups hung in 2 of 5 runs; the PyTorchJob sets it too.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    whole, killed = (Experiment(tmp_path / name, published, {"train.epochs": 64}) for name in ("whole", "killed"))
    whole.train(2)
    rng = random.Random(0)
    log = (tmp_path / "log").open("w")  # the output of torchrun would fill a pipe that is not read
    words = ("train", "--dataset", str(published), "--model", "model")
    process = killed.start(2, *words, restarts=10, output=log, workers=python())
    log.close()
    for _ in range(4):
        began, further = killed.steps_done(), rng.randrange(8, 30)
        while killed.steps_done() < began + further:
            assert process.poll() is None
            time.sleep(0.001)
        victims = _workers(process)
        seen = killed.steps_done()
        os.kill(rng.choice(victims), signal.SIGKILL)
        while set(_workers(process)) & set(victims):
            assert process.poll() is None
            time.sleep(0.01)
        (folder,) = killed.folder.glob("states/*")
        # A state every 7 steps, and one may be half written while another one waits.
        assert StateFolder(folder).newest_step() >= seen - 3 * 7
    assert process.wait(timeout=200) == 0, (tmp_path / "log").read_text()
    for name in ("checkpoint.safetensors", "train.tsv", "validation.tsv"):
        assert (killed.folder / "model" / name).read_bytes() == (whole.folder / "model" / name).read_bytes()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_time_limit_of_two_processes(published: Path, tmp_path: Path) -> None:
    """Both end after the same step; the limit is not part of the content key."""
    limited = Experiment(tmp_path / "run", published, {"train.max_seconds": 1e-6})
    out = limited.train(2, code=1)
    assert "trm: train.max_seconds has passed; the state of step 1 of 50 is saved, the same command resumes" in out
    edit_params(limited.folder / "params.yaml", {"train.max_seconds": None})
    assert "train: resuming from step 1 of 50" in limited.train(2)


def test_non_finite_loss_of_two_processes(published: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "run", published, {"train.lr": 1e30, "train.lr_warmup_steps": 0})
    out = experiment.train(2, code=1)
    assert re.search(r"trm: step \d+, process 0 of 2: the loss is (nan|inf), its batch is in", out)
    (file,) = experiment.folder.glob("states/*/non-finite-loss-*.safetensors")
    assert len(load_file(file)["inputs"]) == 4


def test_indivisible_batch_is_rejected(published: Path, tmp_path: Path) -> None:
    out = Experiment(tmp_path / "run", published).train(3, code=1)
    assert "trm: train.global_batch_size must be a multiple of the number of processes. Got 8 and 3" in out


def test_processes_share_the_evaluation(single: Experiment, published: Path) -> None:
    words = ("evaluate", "--dataset", str(published), "--model", "model", "--evaluation")
    single.run(1, *words, "one")
    for processes in (2, 4):  # 6 puzzles: the last round is incomplete
        single.run(processes, *words, "several")
        one, several = (pq.read_table(single.folder / name / "predictions.parquet") for name in ("one", "several"))
        rounded = ("halt_logit", "confidence")
        exact = [name for name in one.column_names if name not in rounded]
        assert several.select(exact).equals(one.select(exact))
        for name in rounded:
            assert several[name].to_pylist() == pytest.approx(one[name].to_pylist(), abs=1e-4)
        metrics = [(single.folder / name / "metrics.json").read_text() for name in ("one", "several")]
        assert metrics[0] == metrics[1]


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler for the CPU")
def test_compiled_in_two_processes(single: Experiment, published: Path, tmp_path: Path) -> None:
    compiled = Experiment(tmp_path / "run", published, {"train.compile": True})
    compiled.train(2)
    assert_same_training(single, compiled, within=1e-3)  # the compiler changes the rounding
    model, _ = load_checkpoint(compiled.folder / "model")
    plain, _ = load_checkpoint(single.folder / "model")
    assert list(model.state_dict()) == list(plain.state_dict())
