"""`trm visualize` and `trm demo`: shows a model solving a puzzle."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live
from rich.text import Text

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.data.parquet import read_meta
from trm.data.protocol import Grid
from trm.datasets.drawings import get_drawing
from trm.evaluation.eval_dataset import EvalDataset, check_same_dataset
from trm.inference.puzzle import EvalPuzzle, get_solvable_dataset, make_puzzle, to_tokens
from trm.inference.solve import Answer
from trm.inference.trace import Frame, trace
from trm.inference.voting import same_grid
from trm.models.act import TRM
from trm.reporting.terminal.animation import save_gif
from trm.reporting.terminal.rendering import View, Window, render
from trm.utils.errors import UserError

TOTAL_SECONDS, MAX_FRAME_SECONDS = 4.0, 0.15
"""Time for all frames together, and at most for one, unless the model is slower."""


@dataclass(frozen=True)
class Puzzle:
    """A puzzle to solve, and its solution if known."""

    puzzle: EvalPuzzle
    solution: Grid | None


def input_puzzle(meta: DatasetMeta, grid: npt.NDArray[np.uint8], num_votes: int, seed: int) -> Puzzle:
    """A puzzle [height, width] of cell values. Raises `DataError` and `UserError` as `trm.solve`."""
    dataset = get_solvable_dataset(meta)
    tokens = to_tokens(meta, dataset, grid)
    return Puzzle(make_puzzle(meta, tokens, num_votes, seed), dataset.unique_solution(grid))


def dataset_puzzle(model: str, meta: DatasetMeta, dataset: Path, index: int, num_votes: int, seed: int) -> Puzzle:
    """Puzzle `index` of the test split, from 0. Named puzzles (ARC) vote with the augmentations of the dataset.

    Raises `UserError` if there is no such puzzle, or if `model`, with this `meta`, was trained on another dataset.
    """
    check_same_dataset(Path(model), meta, dataset, read_meta(dataset))
    tests = EvalDataset(dataset, meta, num_votes, None, seed)
    count = len(tests.sample())
    if index >= count:
        raise UserError(f"{dataset}: --index must be below {count}, the number of test puzzles. Got {index}")
    example = next(tests.examples(index))
    if tests.names is None:  # the same augmentations as `trm solve`
        return Puzzle(make_puzzle(meta, tests.split.inputs[example.row], num_votes, seed), example.solution)
    seeds = [[seed, 0, number] for number in range(example.num_votes)]
    puzzle = EvalPuzzle(example.grid, example.augmentations, example.identifiers, seeds)
    return Puzzle(puzzle, example.solution)


def visualize(
    model: TRM, meta: DatasetMeta, puzzle: Puzzle, config: InferenceConfig, save: Path | None, console: Console
) -> bool:
    """Show every forward pass on a terminal, or every step if the output is not one; write a GIF to `save`.

    Returns whether the puzzle is solved: the answer is the solution or, if that is unknown, obeys the rules. Raises
    `UserError` if `config.verify` is set and the dataset has no rules.
    """
    is_live = console.is_terminal and not console.is_dumb_terminal
    color = console.color_system is not None and not console.no_color
    drawing = get_drawing(meta)
    pause = min(TOTAL_SECONDS / (config.max_steps * model.passes), MAX_FRAME_SECONDS)
    due = time.monotonic()
    step_frames: list[Frame] = []
    current: list[View] = []

    def on_frame(frame: Frame) -> None:
        nonlocal due
        if frame.ends_step:
            step_frames.append(frame)
        elif not is_live:
            return
        before = current[-1].frame.answer if current else None
        current[:] = [View(drawing, frame, before, puzzle.puzzle.grid, puzzle.solution)]
        if live is None:
            console.print(text(None), end="\n\n")
            return
        live.update(text(console.height), refresh=True)
        now = time.monotonic()
        due = max(due + pause, now)
        time.sleep(due - now)

    def text(height: int | None) -> Text:
        return render(current[-1], Window(console.width, height, color, console.color_system != "standard"))

    # The alternate screen neither scrolls nor breaks when the window is resized.
    with Live(console=console, auto_refresh=False, screen=True) if is_live else nullcontext() as live:
        answer = trace(model, meta, puzzle.puzzle, config, on_frame)
    if is_live:
        console.print(text(console.height))
    console.print(outcome(answer, puzzle))
    if save is not None:
        save_gif(drawing, step_frames, puzzle.puzzle.grid, puzzle.solution, save)
        console.print(f"{save}: {len(step_frames)} steps")
    return is_solved(answer, puzzle)


def is_solved(answer: Answer, puzzle: Puzzle) -> bool:
    """Whether the answer is the solution or, if that is unknown, obeys the rules."""
    if puzzle.solution is None:
        return bool(answer.valid)
    return same_grid(answer.grid, puzzle.solution)


def outcome(answer: Answer, puzzle: Puzzle) -> str:
    """The result in one line."""
    words = {True: "valid", False: "not solved: invalid", None: "no rules to check"}[answer.valid]
    if puzzle.solution is not None:
        words = "solved" if is_solved(answer, puzzle) else "not solved"
        if words == "not solved" and answer.valid:
            words = "valid, but not the known solution"
    words += f"; halt probability {answer.halt_probability:.1%}"
    num_votes = puzzle.puzzle.num_votes
    return words + (f"; {answer.votes} of {num_votes} votes" if num_votes > 1 else "")
