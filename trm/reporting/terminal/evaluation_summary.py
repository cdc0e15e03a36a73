"""`trm inspect` of an evaluation: some of its puzzles, with the answers of the model and the solutions."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group, RenderableType
from rich.text import Text
from scipy.special import expit

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import read_meta
from trm.datasets.drawings import get_drawing
from trm.inference.trace import Frame
from trm.reporting.predictions import PredictionTable, predictions_of, read_predictions, rows_at
from trm.reporting.terminal.artifact_summary import note
from trm.reporting.terminal.maps import View
from trm.reporting.terminal.rendering import render_answer, window_of
from trm.storage.artifacts import MANIFEST, read_manifest
from trm.utils.file_formats import printable

PREDICTIONS = "predictions.parquet"


def evaluation(folder: Path, manifest: Mapping[str, Any], count: int, console: Console) -> RenderableType:
    """`count` test puzzles, about half of them failed. The dataset is expected next to the evaluation."""
    dataset = folder.parent / "dataset"
    if not count:
        return Group()
    if not (dataset / MANIFEST).is_file() or read_manifest(dataset)["key"] != manifest["inputs"]["dataset"]:
        return note(f"no puzzles are shown: {dataset} is not the dataset of this evaluation")
    meta, table = read_meta(dataset), read_predictions(folder / PREDICTIONS)
    return Group(*_puzzles(dataset, meta, folder / PREDICTIONS, table, choose(table, count).tolist(), console))


def choose(table: PredictionTable, count: int) -> npt.NDArray[np.int64]:
    """The first puzzles in order: half of them failed, the others solved, where possible."""
    failed, others = (np.flatnonzero(group) for group in (table.known & ~table.correct, ~table.known | table.correct))
    num_failed = min(len(failed), max((count + 1) // 2, count - len(others)))
    return np.sort(np.concatenate([failed[:num_failed], others[: count - num_failed]]))


def _puzzles(
    dataset: Path, meta: DatasetMeta, file: Path, table: PredictionTable, indices: list[int], console: Console
) -> Iterator[RenderableType]:
    drawing, window = get_drawing(meta), window_of(console, None)
    rows = rows_at(file, table.row[indices].tolist())
    for index, prediction in zip(indices, predictions_of(dataset, meta, rows), strict=True):
        frame = Frame(1, 1, 1, True, prediction.answer, float(table.halt_logit[index]), None, ())
        view = View(drawing, frame, prediction.answer, prediction.question, prediction.solution)
        yield Text(f"\n{printable(_title(meta, table, index))}", "bold")
        yield from render_answer(view, window)


def _title(meta: DatasetMeta, table: PredictionTable, index: int) -> str:
    """The result of a puzzle in one line."""
    name = f"puzzle {table.tasks[int(table.task[index])]}"
    name += f", test pair {table.pair[index] + 1}" if table.pair.any() else ""
    words = ["solved" if table.correct[index] else "wrong"] if table.known[index] else ["solution unknown"]
    if table.rating.any():
        words.append(get_drawing(meta).rating.format(table.rating[index]))
    words.append(f"halt probability {expit(float(table.halt_logit[index])):.1%}")
    if (count := int(table.num_votes[index])) > 1:
        outcome = (", correct" if table.vote_correct[index] else ", wrong") if table.known[index] else ""
        words.append(f"{table.votes[index]} of {count} votes{outcome}")
    return f"{name}: {'; '.join(words)}"
