"""The puzzles of the report: solved and failed ones step by step, and the most confident mistakes.

The model is run again, because the evaluation stores only last answers. Grids are packed for the script of the page: a
grid is [height, width, one character per cell], a step with few changes is a list of place and cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing
from trm.data.parquet import read_rows
from trm.data.protocol import Grid
from trm.datasets.drawings import get_drawing
from trm.inference.engine import InferenceEngine
from trm.models.act import TRM
from trm.reporting.predictions import Prediction, PredictionTable, identifiers_of, predictions_of, rows_at

FIRST_CHARACTER = 48
"""Cell c is coded as the character with number 48 + c."""
MISTAKES = 10
"""Number of confident mistakes shown."""
MAX_STEPS = 128
"""Most supervision steps shown; more would make the page large."""
ATTEMPTS = 2
"""Attempts per test pair in ARC."""


@dataclass(frozen=True)
class ExamplePuzzle:
    """A puzzle of the page: the contents of its HTML, and the data for the script."""

    name: str
    solved: bool | None
    """Whether the single answer is correct; None if the solution is unknown."""
    vote: str
    """The result of the vote, if it differs."""
    facts: list[str]
    data: dict[str, Any]
    """question, solution, demos, attempts: packed grids; steps: packed grids; logits: after each step; halt_step: first
    step with a positive halting decision, or 0."""


def choose_examples(table: PredictionTable, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of `count` random examples, half of them solved and half failed where possible, solved ones first."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, len(table)]))
    groups = [table.correct, table.known & ~table.correct] if table.known.any() else [~table.known]
    drawn = [rng.permutation(np.flatnonzero(group)) for group in groups]
    if len(drawn) == 1:
        return np.sort(drawn[0][:count])
    solved, failed = drawn
    num_failed = min(count // 2, len(failed))
    num_failed = max(num_failed, count - len(solved))
    return np.concatenate([np.sort(solved[: count - num_failed]), np.sort(failed[:num_failed])])


def confident_mistakes(table: PredictionTable) -> npt.NDArray[np.int64]:
    """Indices of wrong answers with a halt probability of at least 50 %, those with the highest halt logits first."""
    wrong = np.flatnonzero(table.known & ~table.correct & (table.halt_logit >= 0))
    return wrong[np.argsort(-table.halt_logit[wrong], kind="stable")][:MISTAKES]


def step_by_step(
    model: TRM,
    meta: DatasetMeta,
    dataset: Path,
    file: Path,
    table: PredictionTable,
    indices: Sequence[int],
    steps: int,
    batch_size: int,
) -> list[ExamplePuzzle]:
    """Run the model again, without noise, and keep its answer after each of `steps` supervision steps.

    file: predictions.parquet.
    """
    predictions = list(predictions_of(dataset, meta, rows_at(file, table.row[indices].tolist())))
    if not predictions:
        return []
    rows = [prediction.row["puzzle"] for prediction in predictions]
    demos = demonstrations(dataset, meta, identifiers_of(dataset, "test")[rows])
    examples = []
    for start in range(0, len(predictions), batch_size):
        part = predictions[start : start + batch_size]
        for prediction, (grids, logits, halt_step) in zip(part, _run(model, dataset, part, steps), strict=True):
            index = indices[len(examples)]
            data = _pack_prediction(prediction, grids) | {"logits": logits, "halt_step": halt_step}
            data["demos"] = [[_pack(grid) for grid in pair] for pair in demos[len(examples)]]
            data["attempts"] = _attempts(meta, file, table, index)
            facts = _facts(meta, table, index)
            examples.append(
                ExamplePuzzle(_name(meta, table, index), _solved(table, index), vote_note(table, index), facts, data)
            )
    return examples


def mistakes(
    meta: DatasetMeta, dataset: Path, file: Path, table: PredictionTable, indices: Sequence[int]
) -> list[ExamplePuzzle]:
    """The stored predictions at `indices`, which are wrong. file: predictions.parquet."""
    examples = []
    predictions = predictions_of(dataset, meta, rows_at(file, table.row[indices].tolist()))
    for index, prediction in zip(indices, predictions, strict=True):
        data = _pack_prediction(prediction, [prediction.answer])
        data |= {"logits": [_logit(prediction.row["halt_logit"])], "halt_step": 0, "demos": [], "attempts": []}
        verdict = {True: "another valid solution", False: "invalid", None: "no rules to check"}
        facts = [verdict[prediction.row["valid"]], *_facts(meta, table, index)]
        examples.append(ExamplePuzzle(_name(meta, table, index), False, vote_note(table, index), facts, data))
    return examples


def script_drawing(drawing: Drawing) -> dict[str, Any]:
    """The drawing for the script of the page.

    cells: [color, symbol] of each value; blank: the value that the answer fills (-1: none); boxes: rows and columns of
    a box (0: none); dots: values drawn as dots; colored: colors distinguish cells.
    """
    colors = drawing.html_colors or drawing.colors or ["var(--cell)"] * len(drawing.symbols)
    return {
        "first": FIRST_CHARACTER,
        "cells": [[color, symbol] for color, symbol in zip(colors, drawing.symbols, strict=True)],
        "blank": -1 if drawing.blank is None else drawing.blank,
        "boxes": list(drawing.boxes or (0, 0)),
        "dots": list(drawing.dots),
        "colored": drawing.colors is not None,
    }


def _run(
    model: TRM, dataset: Path, predictions: Sequence[Prediction], steps: int
) -> Iterator[tuple[list[Grid], list[float], int]]:
    """For each puzzle its answers and halt logits after each step, and the first step with a halting decision."""
    rows = [prediction.row["puzzle"] for prediction in predictions]
    tokens = np.stack([prediction.tokens for prediction in predictions])
    engine = InferenceEngine(model, tokens, identifiers_of(dataset, "test")[rows])
    outputs, logits, halts = zip(*(engine.step() for _ in range(steps)), strict=True)
    for number, prediction in enumerate(predictions):
        decisions = [bool(step[number]) for step in halts]
        grids = [prediction.invert(step[number][None])[0] for step in outputs]
        halt_step = decisions.index(True) + 1 if True in decisions else 0
        yield grids, [_logit(step[number]) for step in logits], halt_step


def demonstrations(
    dataset: Path, meta: DatasetMeta, identifiers: npt.NDArray[np.integer]
) -> list[list[tuple[Grid, Grid]]]:
    """The demonstration pairs of the tasks with these identifiers; empty for datasets without tasks."""
    if not get_drawing(meta).has_tasks:
        return [[] for _ in identifiers]
    trained = identifiers_of(dataset, "train")
    found = np.flatnonzero(np.isin(trained, identifiers))
    pairs: dict[int, list[tuple[Grid, Grid]]] = {identifier: [] for identifier in identifiers.tolist()}
    for row, question, label in zip(found, *read_rows(dataset / "train", found.tolist()), strict=True):
        pairs[int(trained[row])].append((_crop(meta, question), _crop(meta, label)))
    return [pairs[identifier] for identifier in identifiers.tolist()]


def _crop(meta: DatasetMeta, tokens: npt.NDArray[np.uint8]) -> Grid:
    """The grid on a canvas uint8 [L], wherever it lies."""
    canvas, first = tokens.reshape(meta.height, meta.width), meta.first_cell_token
    rows, columns = np.nonzero(canvas >= first)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] - np.uint8(first)


def _attempts(meta: DatasetMeta, file: Path, table: PredictionTable, index: int) -> list[list[Any]]:
    """The best candidates of the vote with their votes; empty for datasets without tasks."""
    if not get_drawing(meta).has_tasks:
        return []
    first, count = int(table.row[index]), int(table.num_votes[index])
    best: dict[int, Mapping[str, Any]] = {}
    for row in rows_at(file, range(first, first + count)).to_pylist():
        best.setdefault(row["rank"], row)
    ranked = [best[rank] for rank in sorted(best)[:ATTEMPTS]]
    grids = [np.frombuffer(row["answer"], np.uint8).reshape(row["height"], row["width"]) for row in ranked]
    return [[*_pack(grid), row["votes"]] for grid, row in zip(grids, ranked, strict=True)]


def _pack_prediction(prediction: Prediction, grids: Sequence[Grid]) -> dict[str, Any]:
    solution = _pack(prediction.solution) if prediction.solution is not None else None
    return {"question": _pack(prediction.question), "solution": solution, "steps": pack_steps(grids)}


def _pack(grid: Grid) -> list[Any]:
    return [*grid.shape, "".join(chr(FIRST_CHARACTER + cell) for cell in grid.ravel().tolist())]


def pack_steps(grids: Sequence[Grid]) -> list[list[Any]]:
    """Each grid completely, or as place, cell, place, cell, … where it differs from the previous one if shorter."""
    packed: list[list[Any]] = []
    before: Grid | None = None
    for grid in grids:
        complete = _pack(grid)
        if before is not None and before.shape == grid.shape:
            places = np.flatnonzero(before.ravel() != grid.ravel())
            changes = np.stack([places, grid.ravel()[places]], axis=1).ravel().tolist()
            packed.append([changes] if 4 * len(changes) < grid.size else complete)
        else:
            packed.append(complete)
        before = grid
    return packed


def _name(meta: DatasetMeta, table: PredictionTable, index: int) -> str:
    name = f"{'Task' if get_drawing(meta).has_tasks else 'Puzzle'} {table.tasks[int(table.task[index])]}"
    has_several = table.pair[table.task == table.task[index]].max() > 0
    return f"{name}, test pair {table.pair[index] + 1}" if has_several else name


def _solved(table: PredictionTable, index: int) -> bool | None:
    return bool(table.correct[index]) if table.known[index] else None


def vote_note(table: PredictionTable, index: int) -> str:
    """The result of the vote, if it differs from that of the single answer."""
    if table.num_votes[index] == 1 or not table.known[index] or table.correct[index] == table.vote_correct[index]:
        return ""
    return ", but the vote is right" if table.vote_correct[index] else ", but the vote is wrong"


def _facts(meta: DatasetMeta, table: PredictionTable, index: int) -> list[str]:
    facts = [get_drawing(meta).rating.format(table.rating[index])] if table.rating.any() else []
    count = int(table.num_votes[index])
    if count > 1:
        outcome = {True: ", correct", False: ", wrong"}[bool(table.vote_correct[index])] if table.known[index] else ""
        facts.append(f"{table.votes[index]} of {count} votes{outcome}")
    return facts


def _logit(value: float) -> float:
    return round(float(value), 2)
