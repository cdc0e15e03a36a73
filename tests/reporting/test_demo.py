"""`trm demo`: the included model, random puzzles, an empty folder, no network."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open

from tests.conftest import ROOT
from tests.networks import ScriptedNetwork, inference_config
from trm.datasets.sudoku.dataset import sudoku_meta, valid
from trm.datasets.sudoku.solver import count_solutions, solve_grid
from trm.inference.engine import predict
from trm.reporting.terminal import demo as module
from trm.reporting.terminal.demo import MODEL, demo, new_puzzle
from trm.training.checkpoint import FILE, load_checkpoint, read_settings


def test_included_model_contains_only_ema_weights() -> None:
    file = MODEL / FILE
    assert file.stat().st_size < 1_000_000
    model, meta = load_checkpoint(MODEL)
    with safe_open(file, framework="pt") as tensors:
        parameters = {f"ema.{name}" for name, _ in model.named_parameters()}
        assert {name for name in tensors.keys() if "." in name} == parameters  # noqa: SIM118 - no dict
    assert (meta.name, meta.height) == ("sudoku", 6)
    facts = read_settings(MODEL).facts
    readme = (MODEL / "README.md").read_text()
    assert facts["key"] in readme
    assert f"{facts['exact_accuracy']:.1%}" in readme


def test_puzzles_are_minimal_and_reproducible() -> None:
    puzzles = [new_puzzle(seed) for seed in range(20)]
    assert len({question.tobytes() for question, _ in puzzles}) == 20
    meta = sudoku_meta(6)
    for question, solution in puzzles:
        assert count_solutions(question) == 1
        assert valid(meta, [question], [solution]).all()
        for place in zip(*np.nonzero(question), strict=True):
            fewer = question.copy()
            fewer[place] = 0
            assert count_solutions(fewer) == 2  # every clue is necessary
    assert np.array_equal(new_puzzle(7)[0], new_puzzle(7)[0])


def test_accuracy_on_new_puzzles() -> None:
    """The model solves all of these in 16 steps; other rounding may change one or two answers."""
    model, _ = load_checkpoint(MODEL)
    puzzles = [new_puzzle(seed) for seed in range(5000, 5120)]
    tokens = np.stack([question.ravel() for question, _ in puzzles]) + np.uint8(1)
    found = predict(model, tokens, np.zeros(120, int), inference_config(16), 120)
    solutions = np.stack([solution.ravel() for _, solution in puzzles])
    assert (found.tokens - 1 == solutions).all(axis=1).mean() >= 0.9


def output(seed: int | None, num_votes: int = 1) -> str:
    console = Console(file=io.StringIO(), width=200)
    demo(inference_config(num_votes=num_votes), seed, None, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_output() -> None:
    once = output(3)  # halt probability 99 %
    assert "\nsolved; halt probability 99" in once
    assert once == output(3)
    assert once.endswith("the same puzzle again: trm demo --seed 3\n")


def test_failure_suggests_more_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails on the puzzle itself, and solves its other augmentations."""
    failing, _ = new_puzzle(44)
    solves_others = True

    def script(question: np.ndarray, _step: int, _noise: float) -> tuple[np.ndarray, float]:
        solution = solve_grid((question - 1).reshape(6, 6))
        assert solution is not None
        fails = np.array_equal(question, failing.ravel() + 1) or not solves_others
        return (solution[::-1] if fails else solution).ravel() + np.uint8(1), 0.0

    network = ScriptedNetwork(read_settings(MODEL).model, sudoku_meta(6), script)
    monkeypatch.setattr(module, "load_checkpoint", lambda _: (network, network.meta))
    failed = output(44)
    assert "\nnot solved; halt probability 50.0%\n" in failed
    assert failed.endswith("more test-time compute may help: trm demo --seed 44 --num-votes 4\n")
    voted = output(44, num_votes=4)
    assert "\nsolved; halt probability 50.0%; 3 of 4 votes\n" in voted
    assert voted.endswith("the same puzzle again: trm demo --seed 44\n")
    solves_others = False
    assert output(44, num_votes=4).endswith(
        "more test-time compute may help: trm demo --seed 44 --num-votes 8 --verify\n"
    )


def test_random_puzzles(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([11, 12])
    monkeypatch.setattr(module.secrets, "randbelow", lambda _: next(draws))
    assert output(None) == output(11)
    assert output(None) == output(12)


@pytest.mark.slow
def test_in_an_empty_folder_without_a_network_or_a_compiler(tmp_path: Path) -> None:
    """A separate process, where numba compiles nothing, gives the same output."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "sys.argv = ['trm', 'demo', '--seed', '3', '--num-votes', '2']\n"
        "from trm.cli.main import main\n"
        "main()\n"
    )
    cache = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    environment |= {"NUMBA_CACHE_DIR": str(cache), "TRM_CACHE_DIR": str(cache)}
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output(3, num_votes=2)
    assert re.search(r"\nsolved; .*; 2 of 2 votes\n", done.stdout)
    assert not list(folder.iterdir())
    assert not cache.exists()
