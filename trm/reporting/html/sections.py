"""The sections of the page that count and draw: training, difficulty, votes, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure

from trm.data.parquet import Split
from trm.config.dataset_meta import DatasetMeta
from trm.reporting.figures import charts as figures
from trm.reporting import statistics as tallies
from trm.reporting.figures.charts import Columns, Scale, inline_svg
from trm.reporting.training_log import read_log
from trm.reporting.predictions import Answered, Holds
from trm.reporting.html.summary import NOTHING, percent, with_interval
from trm.reporting.statistics import Bin

CURVE_POINTS = 400
"""Points of a curve, at most; a longer log is averaged in pieces."""
CURVE_ROWS = 12
"""Rows of a curve's table."""
ROWS_AT_ONCE = 8192
TASKS = 500
"""Tasks that are listed, at most."""
SCORES = {"exact": "as it is, exact", "valid": "as it is, valid", "vote": "by the vote"}
DIFFICULTY = {
    "sudoku": "rating of the Sudoku",
    "maze": "moves of the shortest path",
    "arithmetic": "carries in the sum",
}


@dataclass(frozen=True)
class Table:
    """Words and numbers, as text."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A figure, and the numbers in it."""

    svg: Markup
    caption: str
    table: Table
    wide: bool = False


def plot(figure: Figure, name: str, caption: str, description: str, table: Table) -> Plot:
    """The figure ready for the page."""
    return Plot(inline_svg(figure, name, caption, description), caption, table, figure.get_figwidth() > 4)


def training(model: Path) -> list[Plot]:
    """The curves of the logs in a model folder; none where there are no logs (an imported model)."""
    log, scores = (thinned(read_log(model / f"{name}.tsv")) for name in ("train", "validation"))
    wanted: tuple[tuple[Columns, Mapping[str, str], str, str, Scale], ...] = (
        (log, LOSSES, "loss", "Training loss", "log"),
        (log, ACCURACIES, "accuracy", "Accuracy in training", "fraction"),
        (scores, ACCURACIES, "validation", "Accuracy in validation", "fraction"),
        (log, {"steps": "supervision steps"}, "steps", "Steps until halting", "number"),
        (log, {"lr": "learning rate"}, "rate", "Learning rate", "number"),
    )
    plots = []
    for columns, names, name, caption, scale in wanted:
        # A loss that is off is 0 throughout, and where nothing has halted yet there is no accuracy.
        least = 0 if scale == "log" else -1
        some = {key: words for key, words in names.items() if key in columns and (columns[key] > least).any()}
        if some:
            plots.append(_curves(columns, some, name, caption, scale))
    return plots


LOSSES = {"token_loss": "token loss", "halt_loss": "halt loss", "q_continue_loss": "continue loss"}
ACCURACIES = {"exact_accuracy": "exact", "cell_accuracy": "cell", "halt_accuracy": "halt"}


def thinned(columns: Columns, most: int = CURVE_POINTS) -> dict[str, npt.NDArray[np.float64]]:
    """At most `most` points: means over equal pieces of the log, at each piece's last step. Gaps (NaN) do not count."""
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


def _curves(columns: Columns, names: Mapping[str, str], name: str, caption: str, scale: Scale) -> Plot:
    rows = np.unique(np.linspace(0, len(columns["step"]) - 1, CURVE_ROWS).round().astype(int))
    text = percent if scale == "fraction" else "{:.4g}".format
    table = [
        [f"{columns['step'][row]:.0f}"]
        + [text(value) if np.isfinite(value := float(columns[key][row])) else NOTHING for key in names]
        for row in rows.tolist()
    ]
    last = ", ".join(f"{words} {row}" for words, row in zip(names.values(), table[-1][1:], strict=True))
    description = f"Curve over {columns['step'][-1]:.0f} training steps; at the end: {last}."
    figure = figures.lines(columns, names, scale)
    return plot(figure, f"curve-{name}", caption, description, Table(["step", *names.values()], table))


def difficulty(meta: DatasetMeta, answered: Answered, split: Split) -> list[Plot]:
    """Accuracy against what makes these puzzles hard: their rating, and their size where that differs."""
    known = answered.known
    if not known.any():
        return []
    measures: dict[str, npt.NDArray[np.integer]] = {}
    if answered.rating.any():
        measures[DIFFICULTY.get(meta.name, "rating of the puzzle")] = answered.rating
    rows = answered.puzzle
    if meta.name == "sudoku":
        measures["given cells"] = _count_cells(split.inputs, rows, 2)
    elif meta.name in ("arc", "custom"):
        measures["cells of the right grid"] = _count_cells(split.labels, rows, 2 if meta.name == "arc" else 1)
    holds = {"exact": answered.exact[known]}
    if answered.valid is not None and (answered.valid != answered.exact).any():
        holds["valid"] = answered.valid[known]
    if answered.versions.max() > 1:
        holds["vote"] = answered.voted_right[known]
    plots = []
    for number, (words, values) in enumerate(measures.items()):
        bins = tallies.by_difficulty(values[known], holds)
        if len(bins) > 1:
            plots.append(_scored(bins, {name: SCORES[name] for name in holds}, f"difficulty-{number}", words))
    return plots


def _scored(bins: Sequence[Bin], names: Mapping[str, str], name: str, words: str) -> Plot:
    caption = f"By {words}"
    first, last = (percent(each.scores["exact"]["value"]) for each in (bins[0], bins[-1]))
    description = f"From {first} exact at {bins[0].label} to {last} at {bins[-1].label}; bars are 95 % intervals."
    return plot(figures.scores(bins, names, words), name, caption, description, _bins_table(bins, names, words))


def _bins_table(bins: Sequence[Bin], names: Mapping[str, str], words: str) -> Table:
    rows = [[each.label, f"{each.n:,}", *(with_interval(each.scores[name]) for name in names)] for each in bins]
    return Table([words, "puzzles", *names.values()], rows)


def _count_cells(tokens: Any, rows: npt.NDArray[np.integer], least: int) -> npt.NDArray[np.int64]:  # noqa: ANN401 - TokenRows
    """How many tokens of each row are at least `least`, int64 [N]; a part of the rows is in memory at a time."""
    parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
    return np.concatenate([(tokens[part] >= least).sum(axis=1) for part in parts])


def tasks(meta: DatasetMeta, answered: Answered, seed: int) -> tuple[Table, int] | None:
    """Each task's test pairs, at most `TASKS` tasks drawn by the seed, and how many tasks there are; None where a task
    is just a puzzle, or nobody knows what is right.
    """
    if not answered.known.any() or (meta.name != "arc" and answered.pair.max() == 0):
        return None
    count = len(answered.tasks)
    drawn = np.sort(np.random.default_rng(np.random.SeedSequence([seed, count])).permutation(count)[:TASKS])

    def per_task(holds: Holds) -> npt.NDArray[np.int64]:
        return np.bincount(answered.task[holds], minlength=count)

    pairs = per_task(np.ones(len(answered), bool))
    won = {"as it is": answered.right, "vote, first": answered.voted_right, "vote, first two": answered.second_right}
    solved = {name: per_task(holds) for name, holds in won.items()}
    named = sorted((answered.tasks[task], task) for task in drawn.tolist())
    rows = [[name, str(pairs[task]), *(str(column[task]) for column in solved.values())] for name, task in named]
    return Table(["task", "test pairs", *solved], rows), count


@dataclass(frozen=True)
class VoteSection:
    """How the votes fell."""

    plot: Plot
    mended: int
    """Puzzles of which the single answer is wrong and the vote's is right."""
    spoilt: int
    """The other way round."""
    both: int
    neither: int
    most: int
    """Versions that voted."""


def vote(answered: Answered) -> VoteSection | None:
    """None where nothing was voted on, or nobody knows what is right."""
    if answered.versions.max() == 1 or not answered.known.any():
        return None
    fell = tallies.votes(answered)
    words = "share of the votes for the winning answer" if fell.by_share else "votes for the winning answer"
    caption = f"By {words}"
    names = ("the winner is right", "it is wrong")
    full = fell.bins[-1]
    description = (
        f"{full.n:,} of {sum(each.n for each in fell.bins):,} puzzles are in the last column, {full.label}; "
        f"{percent(full.scores['right']['value'])} of those answers are right."
    )
    table = _bins_table(fell.bins, {"right": "the winner is right"}, words)
    shown = plot(figures.stacked(fell.bins, "right", names, words), "votes", caption, description, table)
    counted = fell.table
    return VoteSection(
        shown,
        mended=counted[False, True],
        spoilt=counted[True, False],
        both=counted[True, True],
        neither=counted[False, False],
        most=int(answered.versions.max()),
    )


def calibration(answered: Answered) -> tuple[Plot, float] | None:
    """The reliability diagram and the expected calibration error; None where nobody knows what is right."""
    known = answered.known
    if not known.any():
        return None
    found = tallies.calibration(answered.halt_logit[known], answered.exact[known])
    rows = [
        [each.label, f"{each.n:,}", percent(sure), with_interval(each.scores["exact"])]
        for each, sure in zip(found.bins, found.sure, strict=True)
    ]
    table = Table(["sigmoid of the halt logit", "puzzles", "mean", "exact"], rows)
    caption = "Reliability of the halt logit"
    description = f"Reliability diagram of {len(found.bins)} bins; the expected calibration error is {found.error:.3f}."
    return plot(figures.reliability(found), "reliability", caption, description, table), found.error
