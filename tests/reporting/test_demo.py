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
from trm.datasets.sudoku.dataset import sudoku_meta, valid
from trm.datasets.sudoku.solver import count_solutions
from trm.inference.engine import Dials, predict
from trm.reporting.terminal import demo as module
from trm.reporting.terminal.demo import MODEL, demo, fresh_puzzle
from trm.training.checkpoint import FILE, load_checkpoint, read_settings

FAILED = 44
"""Seed of a puzzle that the model does not solve in one try."""


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
    model, _ = load_checkpoint(MODEL)
    puzzles = [fresh_puzzle(seed) for seed in range(5000, 5120)]
    tokens = np.stack([question.ravel() for question, _ in puzzles]) + np.uint8(1)
    found = predict(model, tokens, np.zeros(120, int), Dials(6), 120)
    right = np.stack([answer.ravel() for _, answer in puzzles])
    assert (found.tokens - 1 == right).all(axis=1).mean() >= 0.9


def said(seed: int | None, votes: int = 1, **dials: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    demo(votes, Dials(**{"steps": 16, **dials}), False, seed, None, console)  # pyright: ignore[reportArgumentType]
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_it_answers_and_says_so_when_it_fails() -> None:
    once = said(3)
    assert "solved; the model is" in once
    assert once == said(3)
    assert once.endswith("the same puzzle again: trm demo --seed 3\n")
    failed = said(FAILED)
    assert "not solved; the model is" in failed
    assert failed.endswith(f"more thought may help: trm demo --seed {FAILED} --num-votes 4\n")
    assert "\nsolved; the model is" in said(FAILED, votes=4)


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
