"""The sections of the report with charts: training, difficulty, votes, calibration, selective prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import Split
from trm.datasets.drawings import get_drawing
from trm.evaluation.metrics import proportion
from trm.reporting import statistics
from trm.reporting.figures import charts
from trm.reporting.figures.charts import Columns, Scale, inline_svg
from trm.reporting.html.summary import DASH, percent, with_interval
from trm.reporting.predictions import Mask, PredictionTable, evenly_spaced
from trm.reporting.statistics import Bin
from trm.reporting.training_log import read_log

CURVE_POINTS = 400
"""Maximum number of points of a curve; longer logs are averaged in equal parts."""
CURVE_ROWS = 12
"""Rows of the table of a curve."""
ROWS_AT_ONCE = 8192
TASKS = 500
"""Maximum number of tasks listed."""
COVERAGES = (0.5, 0.8, 0.9, 1.0)
"""Coverages in the table of the risk-coverage curve."""
CONFIDENCES = {
    "votes": "the sum of the halt probabilities of the votes for the winning answer, divided by the number of votes",
    "halt_logit": "the halt probability of the sequence that gives the answer",
    "halt_first": "the halt probability of the sequence that gives the answer",
    "settled": "the fraction of the sequences of the puzzle whose answer did not change in their last step",
}
"""Selection -> definition of the confidence."""
SCORES = {"exact": "single answer, exact", "valid": "single answer, valid", "vote": "vote"}


@dataclass(frozen=True)
class Table:
    """A table of strings."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A chart and its numbers."""

    svg: Markup
    caption: str
    table: Table
    span: int
    """Columns of the page that it spans, of six."""


def plot(figure: Figure, name: str, caption: str, description: str, table: Table, span: int) -> Plot:
    """Embed a figure in the page."""
    return Plot(inline_svg(figure, name, caption, description), caption, table, span)


def spans(count: int) -> list[int]:
    """The columns that each of `count` plots spans, so that they fill rows of six: three, two or one plot in a row."""
    if count <= 4:
        return {1: [6], 2: [3] * 2, 3: [2] * 3, 4: [3] * 4}.get(count, [])
    return [2] * 3 + spans(count - 3)


def training(model: Path) -> list[Plot]:
    """The curves of the logs in a model folder; empty for an imported model, which has no logs."""
    log = downsample(without_short_window(read_log(model / "train.tsv")))
    scores = downsample(read_log(model / "validation.tsv"))
    wanted: tuple[tuple[Columns, Mapping[str, str], str, str, Scale], ...] = (
        (log, LOSSES, "loss", "Training loss", "log"),
        (log, ACCURACIES, "accuracy", "Accuracy in training", "fraction"),
        (scores, ACCURACIES, "validation", "Accuracy in validation", "fraction"),
        (log, {"steps": "supervision steps"}, "steps", "Steps until halting", "number"),
        (log, {"lr": "learning rate"}, "rate", "Learning rate", "number"),
    )
    shown = []
    for columns, names, name, caption, scale in wanted:
        # A disabled loss is 0 in all rows, and accuracy is undefined until sequences halt.
        least = 0 if scale == "log" else -1
        some = {key: words for key, words in names.items() if key in columns and (columns[key] > least).any()}
        if some:
            shown.append((columns, some, name, caption, scale))
    return [
        _curves(columns, some, name, caption, scale, span)
        for (columns, some, name, caption, scale), span in zip(shown, spans(len(shown)), strict=True)
    ]


LOSSES = {"token_loss": "token loss", "halt_loss": "halt loss", "q_continue_loss": "continue loss"}
ACCURACIES = {"exact_accuracy": "exact", "cell_accuracy": "cell", "halt_accuracy": "halt"}


def without_short_window(columns: Columns) -> Columns:
    """The log without its last row if that is the mean of less than half as many steps as the row before it."""
    windows = np.diff(columns["step"], prepend=0) if columns else np.zeros(0)
    is_short = len(windows) > 1 and windows[-1] < windows[-2] / 2
    return {name: values[:-1] for name, values in columns.items()} if is_short else columns


def downsample(columns: Columns, most: int = CURVE_POINTS) -> dict[str, npt.NDArray[np.float64]]:
    """Reduce to at most `most` points: means over equal parts of the log, at the last step of each; NaN is ignored."""
    count = len(next(iter(columns.values()), ()))
    starts = np.arange(0, count, -(-count // most) if count else 1)
    thin = {}
    for name, values in columns.items():
        if name == "step":
            thin[name] = values[np.append(starts[1:], count) - 1]
            continue
        known = np.isfinite(values)
        sums, counts = (np.add.reduceat(part, starts) for part in (np.where(known, values, 0), known.astype(float)))
        thin[name] = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    return thin


def _curves(columns: Columns, names: Mapping[str, str], name: str, caption: str, scale: Scale, span: int) -> Plot:
    rows = np.unique(np.linspace(0, len(columns["step"]) - 1, CURVE_ROWS).round().astype(int))
    text = percent if scale == "fraction" else "{:.4g}".format
    table = [
        [f"{columns['step'][row]:.0f}"]
        + [text(value) if np.isfinite(value := float(columns[key][row])) else DASH for key in names]
        for row in rows.tolist()
    ]
    last = ", ".join(f"{words} {row}" for words, row in zip(names.values(), table[-1][1:], strict=True))
    description = f"Curve over {columns['step'][-1]:.0f} training steps; at the end: {last}."
    return plot(
        charts.lines(columns, names, scale, span),
        f"curve-{name}",
        caption,
        description,
        Table(["step", *names.values()], table),
        span,
    )


def difficulty(meta: DatasetMeta, table: PredictionTable, split: Split) -> list[Plot]:
    """Accuracy against the rating of the puzzles and, if it varies, their number of cells."""
    known = table.known
    if not known.any():
        return []
    drawing = get_drawing(meta)
    measures: dict[str, npt.NDArray[np.integer]] = {}
    if table.rating.any():
        measures[drawing.difficulty] = table.rating
    if drawing.cell_count is not None:
        first = meta.first_cell_token
        if drawing.blank is not None:  # given cells: not blank
            counts = _count_cells(split.inputs, table.puzzle, first + drawing.blank + 1)
        else:
            counts = _count_cells(split.labels, table.puzzle, first)
        measures[drawing.cell_count] = counts
    solved = {"exact": table.exact[known]}
    if table.valid is not None and (table.valid != table.exact).any():
        solved["valid"] = table.valid[known]
    if table.num_votes.max() > 1:
        solved["vote"] = table.vote_correct[known]
    binned = {words: statistics.by_difficulty(values[known], solved) for words, values in measures.items()}
    binned = {words: bins for words, bins in binned.items() if len(bins) > 1}
    names = {name: SCORES[name] for name in solved}
    return [
        _scored(bins, names, f"difficulty-{number}", words, span)
        for number, ((words, bins), span) in enumerate(zip(binned.items(), spans(len(binned)), strict=True))
    ]


def _scored(bins: Sequence[Bin], names: Mapping[str, str], name: str, words: str, span: int) -> Plot:
    caption = f"By {words}"
    first, last = (percent(each.scores["exact"]["value"]) for each in (bins[0], bins[-1]))
    description = f"From {first} exact at {bins[0].label} to {last} at {bins[-1].label}; error bars are 95 % intervals."
    chart = charts.scores(bins, names, words, span)
    return plot(chart, name, caption, description, _bins_table(bins, names, words), span)


def _bins_table(bins: Sequence[Bin], names: Mapping[str, str], words: str) -> Table:
    rows = [[each.label, f"{each.n:,}", *(with_interval(each.scores[name]) for name in names)] for each in bins]
    return Table([words, "puzzles", *names.values()], rows)


def _count_cells(tokens: Any, rows: npt.NDArray[np.integer], least: int) -> npt.NDArray[np.int64]:  # noqa: ANN401 - TokenRows
    """Number of tokens >= `least` of each row, int64 [N], computed in parts to save memory."""
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    return np.concatenate([(tokens[part] >= least).sum(axis=1) for part in parts])


def tasks(meta: DatasetMeta, table: PredictionTable, seed: int) -> tuple[Table, int] | None:
    """The test pairs of each task, for a random sample of at most `TASKS` tasks, and the number of tasks.

    None if every task is a single puzzle, or no solution is known.
    """
    if not table.known.any() or (not get_drawing(meta).has_tasks and table.pair.max() == 0):
        return None
    count = len(table.tasks)
    drawn = np.sort(np.random.default_rng(np.random.SeedSequence([seed, count])).permutation(count)[:TASKS])

    def per_task(mask: Mask) -> npt.NDArray[np.int64]:
        return np.bincount(table.task[mask], minlength=count)

    pairs = per_task(np.ones(len(table), bool))
    masks = {"single answer": table.correct, "vote, first": table.vote_correct, "vote, first two": table.top2_correct}
    solved = {name: per_task(mask) for name, mask in masks.items()}
    named = sorted((table.tasks[task], task) for task in drawn.tolist())
    rows = [[name, str(pairs[task]), *(str(column[task]) for column in solved.values())] for name, task in named]
    return Table(["task", "test pairs", *solved], rows), count


@dataclass(frozen=True)
class VoteSection:
    """The section on votes."""

    plot: Plot
    corrected: int
    """Puzzles whose single answer is wrong and whose winning answer is correct."""
    corrupted: int
    """The reverse."""
    both: int
    """Both answers are correct."""
    neither: int
    """Both answers are wrong."""
    num_votes: int
    """Augmentations that voted."""


def vote(table: PredictionTable) -> VoteSection | None:
    """The section on votes; None without votes or known solutions."""
    if table.num_votes.max() == 1 or not table.known.any():
        return None
    votes = statistics.votes(table)
    words = "fraction of the votes for the winning answer" if votes.by_fraction else "votes for the winning answer"
    caption = f"By {words}"
    names = ("winning answer correct", "wrong")
    full = votes.bins[-1]
    description = (
        f"{full.n:,} of {sum(each.n for each in votes.bins):,} puzzles are in the last column, {full.label}; "
        f"{percent(full.scores['correct']['value'])} of those answers are correct."
    )
    numbers = _bins_table(votes.bins, {"correct": "winning answer correct"}, words)
    chart = plot(charts.stacked(votes.bins, "correct", names, words), "votes", caption, description, numbers, 3)
    counts = votes.table
    return VoteSection(
        chart,
        corrected=counts[False, True],
        corrupted=counts[True, False],
        both=counts[True, True],
        neither=counts[False, False],
        num_votes=int(table.num_votes.max()),
    )


def calibration(table: PredictionTable) -> tuple[Plot, float] | None:
    """The reliability diagram and the expected calibration error; None without known solutions."""
    known = table.known
    if not known.any():
        return None
    found = statistics.calibration(table.halt_logit[known], table.exact[known])
    rows = [
        [each.label, f"{each.n:,}", percent(mean), with_interval(each.scores["exact"])]
        for each, mean in zip(found.bins, found.probability, strict=True)
    ]
    numbers = Table(["sigmoid of the halt logit", "puzzles", "mean", "exact"], rows)
    caption = "Reliability of the halt logit"
    description = f"Reliability diagram of {len(found.bins)} bins; the expected calibration error is {found.error:.3f}."
    return plot(charts.reliability(found), "reliability", caption, description, numbers, 3), found.error


@dataclass(frozen=True)
class SelectivePrediction:
    """The section on answer-or-abstain."""

    definition: str
    """What the confidence is."""
    plot: Plot | None
    """The risk-coverage curve; None if all puzzles have the same confidence."""
    area: float
    """The area under the curve."""


def selective_prediction(table: PredictionTable, selection: str) -> SelectivePrediction | None:
    """The risk-coverage curve; None without known solutions."""
    known = table.known
    if not known.any():
        return None
    found = statistics.risk_coverage(table.confidence[known], table.vote_correct[known])
    if len(found.answered) == 1:
        return SelectivePrediction(CONFIDENCES[selection], None, found.area)
    places = [found.at(coverage) for coverage in COVERAGES]
    correct, answered = found.correct[places].tolist(), found.answered[places].tolist()
    marked = {place: proportion(*counts) for place, *counts in zip(places, correct, answered, strict=True)}
    rows = [
        [
            f"at least {100 * coverage:.0f}\u00a0%",
            f"{np.floor(1e4 * found.min_confidence[place]) / 1e4:g}",  # rounded up, it would answer fewer puzzles
            percent(found.coverage[place]),
            f"{found.answered[place]:,}",
            with_interval(marked[place]),
        ]
        for coverage, place in zip(COVERAGES, places, strict=True)
    ]
    numbers = Table(["coverage", "min_confidence", "answered", "puzzles", "correct among them"], rows)
    caption = "Risk-coverage curve"
    description = (
        f"Correct answers among the most confident puzzles. {'; '.join(f'{row[0]}: {row[4]}' for row in rows)}."
    )
    chart = charts.risk_coverage(found, evenly_spaced(len(found.answered), CURVE_POINTS), marked)
    return SelectivePrediction(
        CONFIDENCES[selection], plot(chart, "risk-coverage", caption, description, numbers, 3), found.area
    )
