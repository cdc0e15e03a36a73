"""Test puzzles that the page shows: solved and failed ones step by step, and the most confident mistakes.

The model is asked again, for the evaluation keeps its last answers alone. What comes of it is packed for the page's
script: a grid is [height, width, a character for each cell], a step that changes little a list of place and cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trm.data.protocol import Grid
from trm.data.parquet import read_rows
from trm.datasets.sudoku.augmentation import BOXES
from trm.inference.engine import InferenceEngine
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM
from trm.reporting.figures.pictures import look
from trm.reporting.predictions import Answered, Seen, identifiers_of, lines_at, seen

FIRST_CHARACTER = 48
"""Cell c is written as the character of this number + c."""
MISTAKES = 10
"""Most confident mistakes that are shown."""
ATTEMPTS = 2
"""Answers of the vote that count in ARC."""
MAZE = {"#": "var(--wall)", " ": "var(--floor)", "S": "var(--start)", "G": "var(--goal)", "o": "var(--floor)"}
"""The page's own colours of a maze; its path is drawn as dots."""
RATINGS = {"maze": "{} moves", "arithmetic": "carries: {}"}
"""What a rating says of a puzzle, where it is not just a rating."""
BLANK = {"sudoku": 0, "arithmetic": 255}
"""The cell of a question that is to be filled."""


@dataclass(frozen=True)
class Shown:
    """A puzzle of the page: what stands in its HTML, and what its script draws."""

    name: str
    solved: bool | None
    """None where nobody knows."""
    facts: list[str]
    drawn: dict[str, Any]
    """question, right, demos, attempts: grids; steps: packed grids; logits: after each step; halts: first step at which
    training would have halted, or 0."""


def choose(answered: Answered, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Places of `count` examples, half of them solved and half failed where there are such, solved ones first."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(answered)]))
    groups = [answered.right, answered.known & ~answered.right] if answered.known.any() else [~answered.known]
    drawn = [rng.permutation(np.flatnonzero(group)) for group in groups]
    if len(drawn) == 1:
        return np.sort(drawn[0][:count])
    solved, failed = drawn
    few = min(count // 2, len(failed))
    few = max(few, count - len(solved))
    return np.concatenate([np.sort(solved[: count - few]), np.sort(failed[:few])])


def confident_mistakes(answered: Answered) -> npt.NDArray[np.int64]:
    """Places of the wrong answers with the highest halt logits, the highest first."""
    wrong = np.flatnonzero(answered.known & ~answered.right)
    return wrong[np.argsort(-answered.halt_logit[wrong], kind="stable")][:MISTAKES]


def step_by_step(
    model: TRM,
    meta: DatasetMeta,
    dataset: Path,
    predictions: Path,
    answered: Answered,
    places: Sequence[int],
    steps: int,
    batch_size: int,
) -> list[Shown]:
    """Ask the model again, without noise, and keep its answer after each of `steps` supervision steps."""
    asked = list(seen(dataset, meta, lines_at(predictions, answered.line[places].tolist())))
    if not asked:
        return []
    demos = _demonstrations(dataset, meta, [one.line["puzzle"] for one in asked])
    shown = []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        for one, (grids, logits, halts) in zip(part, _think(model, dataset, part, steps), strict=True):
            place = places[len(shown)]
            drawn = _drawn(one, grids) | {"logits": logits, "halts": halts}
            drawn["demos"] = [[_packed(grid) for grid in pair] for pair in demos[len(shown)]]
            drawn["attempts"] = _attempts(meta, predictions, answered, place)
            shown.append(
                Shown(_name(meta, answered, place), _solved(answered, place), _facts(meta, answered, place), drawn)
            )
    return shown


def mistakes(
    meta: DatasetMeta, dataset: Path, predictions: Path, answered: Answered, places: Sequence[int]
) -> list[Shown]:
    """Answers as the evaluation found them."""
    shown = []
    asked = seen(dataset, meta, lines_at(predictions, answered.line[places].tolist()))
    for place, one in zip(places, asked, strict=True):
        drawn = _drawn(one, [one.answer]) | {"logits": [_logit(one.line["halt_logit"])], "halts": 0}
        verdict = {True: "a valid other solution", False: "breaks the rules", None: "no rules to check"}
        facts = [verdict[one.line["valid"]], *_facts(meta, answered, place)]
        shown.append(Shown(_name(meta, answered, place), False, facts, drawn | {"demos": [], "attempts": []}))
    return shown


def looks(meta: DatasetMeta) -> dict[str, Any]:
    """How the page draws a cell: `cells` holds colour and symbol of each value, `blank` the value that is to be
    filled (-1: none), `boxes` the rows and columns of a Sudoku's box (0: none), `dots` the values drawn as dots.
    """
    symbols = meta.vocabulary[1:]
    cells = []
    for cell in range(max(meta.vocab_size - 1, 10 if meta.name == "arc" else 0)):
        colour, symbol = look(meta, cell)
        if meta.name == "maze":
            colour = MAZE[symbols[cell]]
        cells.append([colour if meta.name in ("arc", "maze") else "var(--cell)", symbol])
    return {
        "first": FIRST_CHARACTER,
        "cells": cells,
        "blank": BLANK.get(meta.name, -1),
        "boxes": BOXES[meta.height] if meta.name == "sudoku" else [0, 0],
        "dots": [symbols.index("o")] if meta.name == "maze" else [],
        "coloured": meta.name in ("arc", "maze"),
    }


def _think(
    model: TRM, dataset: Path, asked: Sequence[Seen], steps: int
) -> Iterator[tuple[list[Grid], list[float], int]]:
    """For each puzzle its answers, its halt logits, and when training would have halted it."""
    rows = [one.line["puzzle"] for one in asked]
    engine = InferenceEngine(model, np.stack([one.tokens for one in asked]), identifiers_of(dataset, "test")[rows])
    said, logits, halts = zip(*(engine.step() for _ in range(steps)), strict=True)
    for number, one in enumerate(asked):
        wants = [bool(step[number]) for step in halts]
        grids = [one.undo(step[number][None])[0] for step in said]
        yield grids, [_logit(step[number]) for step in logits], wants.index(True) + 1 if True in wants else 0


def _demonstrations(dataset: Path, meta: DatasetMeta, rows: Sequence[int]) -> list[list[tuple[Grid, Grid]]]:
    """What a task shows of itself, input and output, for each row of the test split; only tasks show anything."""
    if meta.name != "arc":
        return [[] for _ in rows]
    own, trained = identifiers_of(dataset, "test")[rows], identifiers_of(dataset, "train")
    there = np.flatnonzero(np.isin(trained, own))
    pairs: dict[int, list[tuple[Grid, Grid]]] = {identifier: [] for identifier in own.tolist()}
    for row, question, label in zip(there, *read_rows(dataset / "train", there.tolist()), strict=True):
        pairs[int(trained[row])].append((_cropped(meta, question), _cropped(meta, label)))
    return [pairs[identifier] for identifier in own.tolist()]


def _cropped(meta: DatasetMeta, tokens: npt.NDArray[np.uint8]) -> Grid:
    """The grid that lies somewhere on a canvas of ARC, uint8 [L]."""
    canvas = tokens.reshape(meta.height, meta.width)
    rows, columns = np.nonzero(canvas >= 2)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] - np.uint8(2)


def _attempts(meta: DatasetMeta, predictions: Path, answered: Answered, place: int) -> list[list[Any]]:
    """The best answers of the vote, where they are what counts."""
    if meta.name != "arc":
        return []
    first, count = int(answered.line[place]), int(answered.versions[place])
    best: dict[int, Mapping[str, Any]] = {}
    for line in lines_at(predictions, range(first, first + count)).to_pylist():
        best.setdefault(line["rank"], line)
    ranked = [best[rank] for rank in sorted(best)[:ATTEMPTS]]
    grids = [np.frombuffer(line["answer"], np.uint8).reshape(line["height"], line["width"]) for line in ranked]
    return [[*_packed(grid), line["votes"]] for grid, line in zip(grids, ranked, strict=True)]


def _drawn(one: Seen, grids: Sequence[Grid]) -> dict[str, Any]:
    right = _packed(one.right) if one.right is not None else None
    return {"question": _packed(one.question), "right": right, "steps": _steps(grids)}


def _packed(grid: Grid) -> list[Any]:
    return [*grid.shape, "".join(chr(FIRST_CHARACTER + cell) for cell in grid.ravel().tolist())]


def _steps(grids: Sequence[Grid]) -> list[list[Any]]:
    """Each grid whole, or as place, cell, place, cell, … where it differs from the one before and that is shorter."""
    packed: list[list[Any]] = []
    before: Grid | None = None
    for grid in grids:
        whole = _packed(grid)
        if before is not None and before.shape == grid.shape:
            places = np.flatnonzero(before.ravel() != grid.ravel())
            changes = np.stack([places, grid.ravel()[places]], axis=1).ravel().tolist()
            packed.append([changes] if 4 * len(changes) < grid.size else whole)
        else:
            packed.append(whole)
        before = grid
    return packed


def _name(meta: DatasetMeta, answered: Answered, place: int) -> str:
    name = f"{'Task' if meta.name == 'arc' else 'Puzzle'} {answered.tasks[int(answered.task[place])]}"
    several = answered.pair[answered.task == answered.task[place]].max() > 0
    return f"{name}, test pair {answered.pair[place] + 1}" if several else name


def _solved(answered: Answered, place: int) -> bool | None:
    return bool(answered.right[place]) if answered.known[place] else None


def _facts(meta: DatasetMeta, answered: Answered, place: int) -> list[str]:
    facts = [RATINGS.get(meta.name, "rating {}").format(answered.rating[place])] if answered.rating.any() else []
    count = int(answered.versions[place])
    if count > 1:
        verdict = (
            {True: ", right", False: ", wrong"}[bool(answered.voted_right[place])] if answered.known[place] else ""
        )
        facts.append(f"the vote: {answered.votes[place]} of {count}{verdict}")
    return facts


def _logit(value: float) -> float:
    return round(float(value), 2)
