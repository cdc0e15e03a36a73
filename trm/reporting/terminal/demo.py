"""`trm demo`: the model that ships with the package solves a Sudoku that was made a moment ago."""

import secrets
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from trm.data.numba_utils import random_state
from trm.data.protocol import Grid
from trm.datasets.sudoku.solver import dig_puzzles, units_of
from trm.inference.solve import asked, find_askable, to_tokens
from trm.inference.engine import Dials
from trm.reporting.terminal.visualize import Puzzle, watch
from trm.training.checkpoint import load_checkpoint

MODEL = Path(__file__).parents[1] / "demo"
"""The model; the README.md in there says how it was made."""
SIZE = 6
STREAM = 2
"""Makes a seed's puzzle another one than the data sets of that seed hold."""

FAILS = "the model fails on about 1 puzzle in 50"
"""Of 1,000 fresh ones on 20, all of which 4 votes solve (measured)."""


def demo(votes: int, dials: Dials, verify: bool, seed: int | None, save: Path | None, console: Console) -> None:
    """Make a puzzle of the `seed`, by default another one each time, and watch the model solve it."""
    torch.set_num_threads(1)  # so small a network is the faster for it, above all where other work runs beside
    repeated = secrets.randbelow(1_000_000) if seed is None else seed
    # Splitmix64 wraps around, which numpy tells of where it is not compiled.
    with np.errstate(over="ignore"):
        model, meta = load_checkpoint(MODEL)
        question, right = fresh_puzzle(repeated)
        tokens = to_tokens(meta, find_askable(meta), question)
        puzzle = Puzzle(asked(meta, tokens, votes, repeated), right)
        is_solved = watch(model, meta, puzzle, dials, verify, save, console)
    console.print(f"the same puzzle again: trm demo --seed {repeated}")
    if not is_solved:
        more = "--num-votes 4" if votes < 4 else f"--num-votes {2 * votes} --verify"
        console.print(f"{FAILS}; more thought may help: trm demo --seed {repeated} {more}")


def fresh_puzzle(seed: int) -> tuple[Grid, Grid]:
    """A puzzle in which no clue can be left out, and its one solution: uint8 [n, n] of digits, 0 for a blank."""
    cells = np.zeros((2, 1, SIZE * SIZE), np.uint8)
    state = random_state(seed, SIZE, STREAM) | np.uint64(1)
    dig_puzzles(units_of(SIZE), 0, state, *cells, np.zeros(1, np.int32))
    question, solution = cells.reshape(2, SIZE, SIZE)
    return question, solution
