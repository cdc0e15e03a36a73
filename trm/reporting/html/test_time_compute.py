"""The section about more thinking without more training: what each dial costs and brings."""

from collections.abc import Sequence
from dataclasses import dataclass

from trm.evaluation.sweep import SCORES, Curve, Row, find, frontier, one_dial
from trm.reporting.pareto import described, difference, exact, figure, judged, sentences
from trm.reporting.html.sections import Plot, Table, plot
from trm.reporting.html.summary import percent


@dataclass(frozen=True)
class Thinking:
    """How far more computation helps a trained model."""

    plot: Plot
    sentences: list[str]
    effects: Table


def thinking_section(curve: Curve | None) -> Thinking | None:
    """The section about more thinking; None where it was not measured."""
    if curve is None:
        return None
    asked, plain = curve["splits"][SCORES], curve["plain"]
    rows = asked["settings"]
    caption = f"Exact answers against network passes, {asked['puzzles']:,} test puzzles"
    best = max(rows, key=lambda row: row["exact"])
    description = f"The best of {len(rows)} settings solves {percent(best['exact'])} with {best['passes']:,.0f} passes."
    drawn = plot(figure(curve), "frontier", caption, description, _table(curve, frontier(rows)))
    alone = [find(rows, plain), *(row for _, row in one_dial(rows, plain))]
    return Thinking(drawn, list(sentences(curve)), _table(curve, alone))


def _table(curve: Curve, rows: Sequence[Row]) -> Table:
    plain = find(curve["splits"][SCORES]["settings"], curve["plain"])
    told = [
        [described(row, curve["plain"]), f"{row['passes']:,.1f}", exact(row)]
        + (["plain", ""] if row == plain else [difference(row), judged(row)])
        for row in rows
    ]
    return Table(["setting", "passes", "exact", "difference to plain, points", "it"], told)
