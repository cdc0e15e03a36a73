"""`trm visualize` and `trm demo`: shows a model solving a puzzle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.data.parquet import read_meta
from trm.data.protocol import Grid
from trm.datasets.drawings import get_drawing
from trm.evaluation.eval_dataset import EvalDataset, check_same_dataset
from trm.inference.puzzle import EvalPuzzle, get_solvable_dataset, make_puzzle, to_tokens
from trm.inference.solve import Answer, confidence_text
from trm.inference.trace import Frame, trace_puzzle
from trm.inference.voting import same_grid
from trm.models.act import TRM
from trm.reporting.terminal.animation import save_gif
from trm.reporting.terminal.keys import keyboard
from trm.reporting.terminal.maps import View
from trm.reporting.terminal.player import Player, Stopped
from trm.reporting.terminal.rendering import render, window_of
from trm.utils.errors import UserError


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
    tests = EvalDataset.read(dataset, meta, num_votes, None, seed)
    count = len(tests.sample())
    if index >= count:
        raise UserError(f"{dataset}: --index must be below {count}, the number of test puzzles. Got {index}")
    return Puzzle(*tests.puzzle(index))


class _Changes:
    """Converts frames to views and passes on the first one, those with a change, and the last one."""

    def __init__(self, first: View, every_pass: bool, keeps_steps: bool, show: Callable[[View], None]) -> None:
        self._view, self._every_pass, self._keeps_steps, self._show = first, every_pass, keeps_steps, show
        self._shown: Frame | None = None
        self._skipped: View | None = None
        self.steps: list[Frame] = []
        """The last frame of every step; only if `keeps_steps`, because steps may be many."""

    def add(self, frame: Frame) -> None:
        """Add the next frame of the trace."""
        if frame.ends_step:
            self.steps += [frame] if self._keeps_steps else []
        elif not self._every_pass:
            return
        shown = self._shown
        view = replace(self._view, frame=frame, before=shown.answer if shown else None)
        if shown is not None and not _differs(shown, frame):
            self._skipped = replace(view, skipped=self._skipped.skipped + 1 if self._skipped else 0)
            return
        self._pass_on(replace(view, skipped=self._skipped.skipped + 1 if self._skipped else 0))

    def finish(self) -> None:
        """Pass on the last frame, if it shows no change."""
        if self._skipped is not None:
            self._pass_on(self._skipped)

    def _pass_on(self, view: View) -> None:
        self._shown, self._skipped = view.frame, None
        self._show(view)


def _differs(one: Frame, other: Frame) -> bool:
    """Whether the answer or the answer or state of a sample differs."""
    states = ([(sample.letter, sample.status, sample.shown) for sample in frame.samples] for frame in (one, other))
    ours, theirs = states
    return not same_grid(one.answer, other.answer) or (len(ours) > 1 and ours != theirs)


def visualize(
    model: TRM, meta: DatasetMeta, puzzle: Puzzle, config: InferenceConfig, save: Path | None, console: Console
) -> bool | None:
    """Show the forward passes that change the answer, controlled by keys, and write a GIF to `save`.

    If the output is not a terminal, the steps that change the answer are printed. Returns whether the puzzle is solved:
    the answer is the solution or, if that is unknown, obeys the rules. None: the user has stopped the animation. Raises
    `UserError` if `config.verify` is set and the dataset has no rules.
    """
    is_live = console.is_terminal and not console.is_dumb_terminal
    drawing, answer = get_drawing(meta), None
    rounds, passes = model.variant.rounds(model.config), model.variant.passes(model.config) + 1
    empty = Frame(0, 0, 0, False, puzzle.puzzle.grid, 0.0, None, ())
    limits = (config.max_steps, rounds, passes)
    first = View(drawing, empty, None, puzzle.puzzle.grid, puzzle.solution, limits, unit="pass" if is_live else "step")
    if is_live:
        # The alternate screen neither scrolls nor breaks when the window is resized.
        with keyboard() as keys, Live(console=console, auto_refresh=False, screen=True) as live:
            player = Player(console, live, keys)
            changes = _Changes(first, True, save is not None, player.show)
            try:
                answer = trace_puzzle(model, meta, puzzle.puzzle, config, changes.add)
                changes.finish()
                player.finish()
            except Stopped:
                pass
        console.print(render(player.view, window_of(console, console.height, compact=True)))
        last_step = player.view.frame.step
    else:
        changes = _Changes(
            first,
            every_pass=False,
            keeps_steps=save is not None,
            show=lambda view: console.print(render(view, window_of(console, None)), end="\n\n"),
        )
        answer = trace_puzzle(model, meta, puzzle.puzzle, config, changes.add)
        changes.finish()
        last_step = config.max_steps
    console.print(f"stopped at step {last_step}" if answer is None else outcome(answer, puzzle, config))
    if save is not None and changes.steps:
        save_gif(drawing, changes.steps, puzzle.puzzle.grid, puzzle.solution, save)
        console.print(f"{save}: {len(changes.steps)} steps")
    return None if answer is None else is_solved(answer, puzzle)


def is_solved(answer: Answer, puzzle: Puzzle) -> bool:
    """Whether the answer is the solution or, if that is unknown, obeys the rules."""
    if puzzle.solution is None:
        return bool(answer.valid)
    return same_grid(answer.grid, puzzle.solution)


def outcome(answer: Answer, puzzle: Puzzle, config: InferenceConfig) -> str:
    """The result in one line."""
    words = {True: "valid", False: "not solved: invalid", None: "no rules to check"}[answer.valid]
    if puzzle.solution is not None:
        words = "solved" if is_solved(answer, puzzle) else "not solved"
        if words == "not solved" and answer.valid:
            words = "valid, but not the known solution"
    words += f"; halt probability {answer.halt_probability:.1%}"
    num_votes, confidence = puzzle.puzzle.num_votes, confidence_text(answer, config)
    words += f"; {answer.votes} of {num_votes} votes" if num_votes > 1 else ""
    return f"{words}; {confidence}" if confidence else words
