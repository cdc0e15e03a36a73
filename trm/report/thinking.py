"""The section about more thinking without more training: what each dial costs and brings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from trm.report.sections import Plot, Table, plot
from trm.report.summary import percent, points, with_interval

DIALS = ("steps", "halt_early", "check_rules", "votes", "rollouts", "noise")


@dataclass(frozen=True)
class Thinking:
    """How far more computation helps a trained model."""

    plot: Plot
    sentence: str
    effects: Table


def thinking_section(
    curve: Mapping[str, Any] | None, draw: Callable[[Mapping[str, Any]], Figure] | None = None
) -> Thinking | None:
    """The section about more thinking, its figure made by `draw`; None where it was not measured."""
    if curve is None or draw is None:
        return None
    scored = curve["splits"]["test"]
    rows = scored["settings"]
    caption = f"Exact answers against network passes, {scored['puzzles']:,} test puzzles"
    best = max(rows, key=lambda row: row["exact"])
    description = f"The best of {len(rows)} settings solves {percent(best['exact'])} with {best['passes']:,.0f} passes."
    frontier, effects = (
        Table(
            ["setting", "passes", "exact", "difference to plain"],
            [
                [described(row, curve["plain"]), f"{row['passes']:,.0f}", _exact(row), _difference(row)]
                for row in chosen
            ],
        )
        for chosen in (frontier_of(rows), single_dials(rows, curve["plain"]))
    )
    return Thinking(plot(draw(curve), "frontier", caption, description, frontier), _chosen(curve), effects)


def frontier_of(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The settings that no other beats at their cost, the cheapest first."""
    kept: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["passes"], -row["exact"])):
        if not kept or row["exact"] > kept[-1]["exact"]:
            kept.append(row)
    return kept


def single_dials(rows: Sequence[Mapping[str, Any]], plain: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings that differ from `plain` in one dial; rollouts and their noise are one."""

    def turned(row: Mapping[str, Any]) -> set[str]:
        return {"rollouts" if dial == "noise" else dial for dial in DIALS if row[dial] != plain[dial]}

    found = [row for row in rows if len(turned(row)) == 1]
    return sorted(found, key=lambda row: ([row[dial] == plain[dial] for dial in DIALS], row["passes"]))


def described(row: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """What a setting turns."""
    words = []
    for dial in DIALS:
        if row[dial] != plain[dial]:
            words.append(
                dial.replace("_", " ") if row[dial] is True else f"{dial.replace('_', ' ')} {_said(row[dial])}"
            )
    return ", ".join(words) or "plain"


def _said(value: object) -> str:
    return "off" if value is False else f"{value:g}" if isinstance(value, float) else str(value)


def _chosen(curve: Mapping[str, Any]) -> str:
    if curve["chosen"] is None:
        return "No setting was chosen."
    rows = curve["splits"]["test"]["settings"]
    (row,) = (row for row in rows if all(row[dial] == curve["chosen"][dial] for dial in DIALS))
    chosen_by = (
        "validation puzzles" if curve["by"] == "validation" else "TEST puzzles, for there are no validation puzzles"
    )
    return (
        f"The cheapest setting within one point of the best, chosen by {chosen_by}, is: "
        f"{described(row, curve['plain'])}. It takes "
        f"{row['passes']:,.0f} passes a puzzle and solves {_exact(row)} of the test puzzles."
    )


def _exact(row: Mapping[str, Any]) -> str:
    return with_interval({"value": row["exact"], "low": row["low"], "high": row["high"]})


def _difference(row: Mapping[str, Any]) -> str:
    return f"{points(row['difference'])} [{points(row['difference_low'])}, {points(row['difference_high'])}]"
