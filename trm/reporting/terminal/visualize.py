"""`trm watch` and `trm demo`: a model solves a puzzle before one's eyes."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trm.data.protocol import Grid
from trm.datasets.sudoku.solver import count_solutions, solve_grid
from trm.data.parquet import read_meta
from trm.utils.errors import UserError
from trm.evaluation.eval_dataset import EvalDataset, check_same_dataset
from trm.inference.solve import Answer, Asked, asked, find_askable, to_tokens
from trm.inference.engine import Dials
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM
from trm.reporting.terminal.animation import save_gif
from trm.reporting.terminal.rendering import Room, View, draw
from trm.inference.trace import Frame, trace

WATCH_SECONDS, LONGEST_FRAME = 4.0, 0.15
"""How long a terminal shows all frames, and one of them at most, unless the model takes longer."""


@dataclass(frozen=True)
class Puzzle:
    """What is to be solved, and the right answer, where it is known."""

    asked: Asked
    right: Grid | None


def typed_puzzle(meta: DatasetMeta, grid: npt.NDArray[np.uint8], votes: int, seed: int) -> Puzzle:
    """A puzzle [height, width] of cell values. Raises `DataError` and `UserError` as `trm.solve`."""
    tokens = to_tokens(meta, find_askable(meta), grid)
    right = solve_grid(grid) if meta.name == "sudoku" and count_solutions(grid) == 1 else None
    return Puzzle(asked(meta, tokens, votes, seed), right)


def puzzle_of(model: str, meta: DatasetMeta, dataset: Path, number: int, votes: int, seed: int) -> Puzzle:
    """Puzzle `number` of the test split, from 0; of named puzzles (ARC) those versions vote that lie in the data set.

    Raises `UserError` where there is none, or where the `model` of this `meta` was trained on other data.
    """
    check_same_dataset(Path(model), meta, dataset, read_meta(dataset))
    tests = EvalDataset(dataset, meta, votes, None, seed)
    count = len(tests.sample())
    if number >= count:
        raise UserError(f"{dataset}: has {count} test puzzles, from 0. Got {number}")
    question = next(tests.questions(number))
    if tests.names is None:  # the versions of `solve`, not those of an evaluation
        return Puzzle(asked(meta, tests.split.inputs[question.row], votes, seed), question.right)
    seeds = [[seed, 0, version] for version in range(question.count)]
    return Puzzle(Asked(question.grid, question.versions, question.identifiers, seeds), question.right)


def watch(
    model: TRM, meta: DatasetMeta, puzzle: Puzzle, dials: Dials, verify: bool, save: Path | None, console: Console
) -> bool:
    """Show every pass on a terminal, every step elsewhere; write the steps as an animation to `save`.

    Returns whether the answer is the right one or, where that is not known, obeys the rules. Raises `UserError` where
    there are no rules to check.
    """
    moving = console.is_terminal and not console.is_dumb_terminal
    colour = console.color_system is not None and not console.no_color
    pace = min(WATCH_SECONDS / (dials.steps * model.passes), LONGEST_FRAME)
    due = time.monotonic()
    kept: list[Frame] = []
    seen: list[View] = []

    def show(frame: Frame) -> None:
        nonlocal due
        if frame.ends_step:
            kept.append(frame)
        elif not moving:
            return
        before = seen[-1].frame.answer if seen else None
        seen[:] = [View(meta, frame, before, puzzle.asked.grid, puzzle.right)]
        if live is None:
            console.print(drawn(None), end="\n\n")
            return
        live.update(drawn(console.height), refresh=True)
        now = time.monotonic()
        due = max(due + pace, now)
        time.sleep(due - now)

    def drawn(height: int | None) -> Text:
        return draw(seen[-1], Room(console.width, height, colour, console.color_system != "standard"))

    # A screen of its own neither scrolls nor is left in pieces where the window changes its size.
    with Live(console=console, auto_refresh=False, screen=True) if moving else nullcontext() as live:
        answer = trace(model, meta, puzzle.asked, dials, verify, show)
    if moving:
        console.print(drawn(console.height))
    console.print(verdict(answer, puzzle, len(puzzle.asked.identifiers)))
    if save is not None:
        save_gif(meta, kept, puzzle.asked.grid, puzzle.right, save)
        console.print(f"{save}: {len(kept)} steps")
    return solved(answer, puzzle)


def solved(answer: Answer, puzzle: Puzzle) -> bool:
    """Whether it is the right answer or, where that is not known, one that obeys the rules."""
    if puzzle.right is None:
        return bool(answer.valid)
    return answer.grid.shape == puzzle.right.shape and bool((answer.grid == puzzle.right).all())


def verdict(answer: Answer, puzzle: Puzzle, votes: int) -> str:
    """The outcome in a line."""
    said = {True: "obeys the rules", False: "not solved: breaks the rules or a clue", None: "no rules to check"}
    words = said[answer.valid]
    if puzzle.right is not None:
        words = "solved" if solved(answer, puzzle) else "not solved"
        if words == "not solved" and answer.valid:
            words = "another answer than the known one, which obeys the rules too"
    words += f"; the model is {answer.halt_probability:.1%} sure"
    return words + (f"; {answer.votes} of {votes} votes" if votes > 1 else "")
