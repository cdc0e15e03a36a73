"""`trm demo`: the model that ships, a new puzzle each time, from an empty folder and without a network."""

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
from tests.networks import ScriptedNetwork
from trm.datasets.sudoku.dataset import sudoku_meta, valid
from trm.datasets.sudoku.solver import count_solutions, solve_grid
from trm.inference.engine import Dials, predict
from trm.reporting.terminal import demo as module
from trm.reporting.terminal.demo import MODEL, demo, fresh_puzzle
from trm.training.checkpoint import FILE, load_checkpoint, read_settings


def test_the_model_that_ships_is_small_and_holds_averaged_weights_alone() -> None:
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


def test_puzzles_are_new_and_repeatable() -> None:
    puzzles = [fresh_puzzle(seed) for seed in range(20)]
    assert len({question.tobytes() for question, _ in puzzles}) == 20
    meta = sudoku_meta(6)
    for question, right in puzzles:
        assert count_solutions(question) == 1
        assert valid(meta, [question], [right]).all()
        for place in zip(*np.nonzero(question), strict=True):
            less = question.copy()
            less[place] = 0
            assert count_solutions(less) == 2  # no clue can be left out
    assert np.array_equal(fresh_puzzle(7)[0], fresh_puzzle(7)[0])


def test_it_solves_nine_of_ten_that_it_has_not_seen() -> None:
    """It solves all of these in 16 steps; a processor that rounds in another way may turn one or two of them."""
    model, _ = load_checkpoint(MODEL)
    puzzles = [fresh_puzzle(seed) for seed in range(5000, 5120)]
    tokens = np.stack([question.ravel() for question, _ in puzzles]) + np.uint8(1)
    found = predict(model, tokens, np.zeros(120, int), Dials(16), 120)
    right = np.stack([answer.ravel() for _, answer in puzzles])
    assert (found.tokens - 1 == right).all(axis=1).mean() >= 0.9


def said(seed: int | None, votes: int = 1, **dials: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    demo(votes, Dials(**{"steps": 16, **dials}), False, seed, None, console)  # pyright: ignore[reportArgumentType]
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_it_answers() -> None:
    once = said(3)  # 99 % sure
    assert "\nsolved; the model is" in once
    assert once == said(3)
    assert once.endswith("the same puzzle again: trm demo --seed 3\n")


def test_it_says_so_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that fails on the puzzle as it is, and solves its other versions."""
    asked, _ = fresh_puzzle(44)
    solves_others = True

    def script(question: np.ndarray, _step: int, _noise: float) -> tuple[np.ndarray, float]:
        right = solve_grid((question - 1).reshape(6, 6))
        assert right is not None
        fails = np.array_equal(question, asked.ravel() + 1) or not solves_others
        return (right[::-1] if fails else right).ravel() + np.uint8(1), 0.0

    network = ScriptedNetwork(read_settings(MODEL).model, sudoku_meta(6), script)
    monkeypatch.setattr(module, "load_checkpoint", lambda _: (network, network.meta))
    failed = said(44)
    assert "\nnot solved; the model is 50.0% sure\n" in failed
    assert failed.endswith("more thought may help: trm demo --seed 44 --num-votes 4\n")
    voted = said(44, votes=4)
    assert "\nsolved; the model is 50.0% sure; 3 of 4 votes\n" in voted
    assert voted.endswith("the same puzzle again: trm demo --seed 44\n")
    solves_others = False
    assert said(44, votes=4).endswith("more thought may help: trm demo --seed 44 --num-votes 8 --verify\n")


def test_another_puzzle_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([11, 12])
    monkeypatch.setattr(module.secrets, "randbelow", lambda _: next(draws))
    assert said(None) == said(11)
    assert said(None) == said(12)


@pytest.mark.slow
def test_in_an_empty_folder_without_a_network_or_a_compiler(tmp_path: Path) -> None:
    """A process of its own, where numba compiles nothing: the same puzzle and the same answer as here."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "sys.argv = ['trm', 'demo', '--seed', '3', '--num-votes', '2']\n"
        "from trm.cli import main\n"
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
    assert done.stdout == said(3, votes=2)
    assert re.search(r"\nsolved; .*; 2 of 2 votes\n", done.stdout)
    assert not list(folder.iterdir())
    assert not cache.exists()
