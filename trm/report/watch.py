"""`trm watch`: a model solves a puzzle before one's eyes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live

from trm.data.kind import Grid, Versions, find_kind
from trm.data.solver import solve_grid
from trm.data.store import read_names, read_split
from trm.errors import UserError
from trm.evaluation.solve import find_askable, to_tokens
from trm.meta import DatasetMeta
from trm.model.supervision import TRM
from trm.report.trace import Frame, save_gif, shown, trace

PAUSE = 0.04
"""Seconds that a terminal shows a frame at least."""


@dataclass(frozen=True)
class Asked:
    """A puzzle to be watched."""

    tokens: npt.NDArray[np.uint8]
    identifier: int
    undo: Callable[[npt.NDArray[np.uint8]], Sequence[Grid]]
    question: Grid
    right: Grid | None
    """None where nobody knows the answer."""


def typed_puzzle(meta: DatasetMeta, grid: npt.NDArray[np.uint8]) -> Asked:
    """A puzzle [height, width] of cell values. Raises `DataError` and `UserError` as `trm.solve`."""
    kind = find_askable(meta)
    tokens = to_tokens(meta, kind, grid)
    undo = kind.versions(meta, tokens, np.random.default_rng(0), 1).undo
    right = solve_grid(grid) if meta.kind == "sudoku" else None
    return Asked(tokens, 0, undo, undo(tokens[None])[0], right)


def puzzle_of(meta: DatasetMeta, dataset: Path, number: int) -> Asked:
    """Puzzle `number` of the test split, from 0. Raises `UserError` where there is none."""
    split, kind = read_split(dataset / "test"), find_kind(meta.kind)
    if number >= len(split.group_starts) - 1:
        raise UserError(f"{dataset}: has {len(split.group_starts) - 1} test puzzles, from 0. Got {number}")
    row = int(split.puzzle_starts[split.group_starts[number]])
    rows, identifier = np.array([row]), int(split.identifiers[row])
    (tokens,), (labels,) = split.inputs[rows], split.labels[rows]
    made: Versions
    if meta.puzzles_digest:
        made = kind.recall(meta, tokens[None], [read_names(dataset)[identifier - 1].as_py()])
    else:
        made = kind.versions(meta, tokens, np.random.default_rng(0), 1)
    right = made.undo(labels[None])[0] if labels.any() else None
    return Asked(tokens, identifier, made.undo, made.undo(tokens[None])[0], right)


def watch(model: TRM, meta: DatasetMeta, asked: Asked, steps: int, save: Path | None, console: Console) -> None:
    """Show every pass on a terminal, every step elsewhere; write the steps as an animation to `save`."""
    kept: list[Frame] = []
    before: Grid | None = None
    frames = trace(model, asked.tokens, asked.identifier, asked.undo, steps)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for frame in frames:
            picture = shown(meta, frame, before, asked.right)
            if console.is_terminal:
                live.update(picture, refresh=True)
                time.sleep(PAUSE)
            elif frame.ends_step:
                console.print(picture)
            before = frame.answer
            if frame.ends_step:
                kept.append(frame)
    if asked.right is not None:
        right = before is not None and before.shape == asked.right.shape and bool((before == asked.right).all())
        console.print("solved" if right else "not solved")
    if save is not None:
        save_gif(meta, kept, asked.question, asked.right, save)
        console.print(f"{save}: {len(kept)} steps")
