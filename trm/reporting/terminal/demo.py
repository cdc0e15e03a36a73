"""`trm demo`: the model that ships with the package solves a newly generated Sudoku."""

import secrets
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from trm.config.inference import InferenceConfig
from trm.data.protocol import Grid
from trm.datasets.sudoku.example import generate_puzzle
from trm.inference.cost import check_inference
from trm.inference.puzzle import get_solvable_dataset, make_puzzle, to_tokens
from trm.reporting.terminal.visualize import Puzzle, visualize
from trm.training.checkpoint import load_checkpoint

MODEL = Path(__file__).parents[2] / "inference/demo_model"
"""The model; its README.md contains the training command."""
SIZE = 6

FAILURE_RATE = "the model fails on about 1 puzzle in 50"
"""Measured on 1,000 new puzzles: 20 failures, all of them solved with 4 votes."""


def demo(config: InferenceConfig, seed: int | None, save: Path | None, console: Console) -> None:
    """Generate the puzzle of `seed` (None: a random one) and show the model solving it."""
    torch.set_num_threads(1)  # faster for a network of this size
    used_seed = secrets.randbelow(1_000_000) if seed is None else seed
    # The random generator wraps around, which numpy warns about if it is not compiled.
    with np.errstate(over="ignore"):
        model, meta = load_checkpoint(MODEL)
        check_inference(model, config)
        question, solution = new_puzzle(used_seed)
        tokens = to_tokens(meta, get_solvable_dataset(meta), question)
        puzzle = Puzzle(make_puzzle(meta, tokens, config.num_votes, used_seed), solution)
        solved = visualize(model, meta, puzzle, config, save, console)
    console.print(f"the same puzzle again: trm demo --seed {used_seed}")
    if solved is False:
        votes = config.num_votes
        more = "--num-votes 4" if votes < 4 else f"--num-votes {2 * votes} --verify"
        console.print(f"{FAILURE_RATE}; more test-time compute may help: trm demo --seed {used_seed} {more}")


def new_puzzle(seed: int) -> tuple[Grid, Grid]:
    """A minimal puzzle and its only solution: uint8 [n, n] of digits, 0 for a blank."""
    return generate_puzzle(SIZE, seed)
