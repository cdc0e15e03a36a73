"""The section "Test-time compute" of the report: cost and effect of each inference setting."""

from collections.abc import Sequence
from dataclasses import dataclass

from trm.evaluation.sweep import SCORING_SPLIT, Row, SweepResults, find_row, pareto_front, single_changes
from trm.reporting.html.sections import Plot, Table, plot
from trm.reporting.html.summary import percent
from trm.reporting.pareto import describe, difference, exact, figure, sentences, verdict

SIZE = (11.9, 4.2)
"""Inches of the figure."""


@dataclass(frozen=True)
class SweepSection:
    """The contents of the section."""

    plot: Plot
    """The Pareto front."""
    sentences: list[str]
    """The main results."""
    effects: Table
    """Each setting alone."""


def sweep_section(results: SweepResults | None) -> SweepSection | None:
    """The section, or None if the sweep was not run."""
    if results is None:
        return None
    split, published = results["splits"][SCORING_SPLIT], results["published"]
    rows = split["rows"]
    caption = f"Exact accuracy against forward passes, {split['puzzles']:,} test puzzles"
    best = max(rows, key=lambda row: row["exact"])
    description = (
        f"The best of {len(rows)} settings solves {percent(best['exact'])} with {best['forward_passes']:,.0f} passes."
    )
    front = plot(figure(results, SIZE), "pareto", caption, description, _table(results, pareto_front(rows)), 6)
    alone = [find_row(rows, published), *(row for _, row in single_changes(rows, published))]
    return SweepSection(front, list(sentences(results)), _table(results, alone))


def _table(results: SweepResults, rows: Sequence[Row]) -> Table:
    published = results["published"]
    cells = [
        [describe(row["settings"], published), f"{row['forward_passes']:,.1f}", exact(row)]
        + (["published", ""] if row["settings"] == published else [difference(row), verdict(row)])
        for row in rows
    ]
    return Table(["setting", "passes", "exact", "difference, points", ""], cells)
