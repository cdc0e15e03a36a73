"""Figures of the page: drawn by matplotlib, set into the page as SVG that takes its colours and its letters from there.

A figure is drawn in matplotlib's own colours. `inline_svg` puts the page's CSS variables in their place, so that light
and dark follow the reader's theme.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trm.evaluation.metrics import Estimate
from trm.reporting.statistics import Bin, Calibration

THEME = {
    "#1f77b4": "var(--a)",
    "#ff7f0e": "var(--b)",
    "#2ca02c": "var(--c)",
    "#d62728": "var(--d)",
    "#7f7f7f": "var(--soft)",
    "#b0b0b0": "var(--grid)",
    "#000000": "var(--ink)",
    "#ffffff": "var(--card)",
}
"""matplotlib's colours (C0 to C3 and C7, its grid, black and white) and the page's."""
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
}
SMALL, WIDE = (3.7, 2.6), (5.6, 2.9)
"""Inches; a small one is as wide as a phone."""
MANY = 10
"""Bins up to which a figure is small."""
LINES, MARKS = ("-", "--", ":"), ("o", "s", "^")

Scale = Literal["number", "fraction", "log"]
Columns = Mapping[str, npt.NDArray[np.float64]]


def inline_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as an SVG element for a page, with a text alternative; its ids begin with `name`."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=nothing, transparent=True)
    text = file.getvalue()
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Many figures are one document here, in which an id is there once.
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub("|".join(THEME), lambda found: THEME[found[0]], body)
    body = re.sub(r"[ \t]*\n[ \t]*", "\n", body)
    label = escape(f"{title}. {description}")
    head = f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}" style="--natural: {width}pt">'
    return Markup(f"{head}<title>{escape(title)}</title>{body.strip()}")


def lines(columns: Columns, names: Mapping[str, str], scale: Scale) -> Figure:
    """The columns that `names` gives words for, against the column `step`."""
    with rc_context(STYLE):
        figure = Figure(figsize=SMALL)
        axes = figure.subplots()
        for number, (name, words) in enumerate(names.items()):
            there = np.isfinite(columns[name])
            few = {"marker": MARKS[number % 3], "markersize": 3.5} if there.sum() <= 30 else {}
            style = {"color": f"C{number}", "linestyle": LINES[number % 3], "label": words, **few}
            axes.plot(columns["step"][there], columns[name][there], **style)  # pyright: ignore[reportArgumentType]
        axes.set_xlabel("training step")
        axes.set_xlim(0, 1.02 * columns["step"][-1])
        axes.locator_params(axis="x", nbins=5)
        if scale == "log":
            axes.set_yscale("log")
        elif scale == "fraction":
            _percent(axes)
        else:
            axes.set_ylim(0, 1.08 * np.nanmax([columns[name] for name in names]))
        if len(names) > 1:
            _legend(axes, len(names))
        return figure


def scores(bins: Sequence[Bin], names: Mapping[str, str], x: str) -> Figure:
    """The share of solved puzzles in each bin with its interval; `names` gives words for the scores that are drawn."""
    with rc_context(STYLE):
        figure = Figure(figsize=SMALL if len(bins) <= MANY else WIDE)
        axes = figure.subplots()
        for number, (name, words) in enumerate(names.items()):
            shown = [(at, each.scores[name]) for at, each in enumerate(bins) if each.n]
            places = np.array([at for at, _ in shown]) + 0.18 * (number - (len(names) - 1) / 2)
            _with_intervals(axes, places, [estimate for _, estimate in shown], number, words)
        _bins_below(axes, bins, x)
        _percent(axes)
        if len(names) > 1:
            _legend(axes, len(names))
        return figure


def stacked(bins: Sequence[Bin], name: str, words: tuple[str, str], x: str) -> Figure:
    """Puzzles in each bin, those where the score `name` holds below the others; `words` name the two."""
    with rc_context(STYLE):
        figure = Figure(figsize=SMALL if len(bins) <= MANY else WIDE)
        axes = figure.subplots()
        total = max(sum(each.n for each in bins), 1)
        good = np.array([each.n * (each.scores[name]["value"] or 0) / total for each in bins])
        rest = np.array([each.n / total for each in bins]) - good
        places = np.arange(len(bins))
        axes.bar(places, good, 0.7, color="C0", label=words[0])
        axes.bar(places, rest, 0.7, good, color="none", edgecolor="C1", hatch="////", linewidth=1.2, label=words[1])
        _bins_below(axes, bins, x)
        axes.yaxis.set_major_formatter(_as_percent)
        axes.set_ylabel("puzzles")
        _legend(axes, 2)
        return figure


def reliability(calibrated: Calibration) -> Figure:
    """What the halt logit promises, and what it keeps."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.7, 3.3))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="C7", linestyle=":", linewidth=1.2)
        estimates = [each.scores["exact"] for each in calibrated.bins]
        _with_intervals(axes, np.array(calibrated.sure), estimates, 0, "")
        axes.set_xlim(-0.04, 1.04)
        axes.xaxis.set_major_formatter(_as_percent)
        axes.set_xlabel("sigmoid of the halt logit")
        axes.set_ylabel("exact answers")
        _percent(axes)
        return figure


def _with_intervals(
    axes: Axes,
    places: npt.NDArray[np.float64],
    estimates: Sequence[Estimate],
    number: int,
    words: str,
) -> None:
    values, lows, highs = (np.array([each[name] for each in estimates], float) for name in ("value", "low", "high"))
    reach = np.maximum([values - lows, highs - values], 0)  # a rounding may put the value beyond its bound
    style = {"color": f"C{number}", "fmt": MARKS[number % 3], "markersize": 5, "capsize": 2.5, "elinewidth": 1.2}
    axes.errorbar(places, values, reach, label=words, **style)  # pyright: ignore[reportArgumentType]


def _bins_below(axes: Axes, bins: Sequence[Bin], x: str) -> None:
    labels = [each.label for each in bins]
    crowded = sum(map(len, labels)) > 28
    axes.set_xticks(range(len(bins)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-0.6, len(bins) - 0.4)
    axes.set_xlabel(x)
    axes.grid(axis="x", visible=False)


def _percent(axes: Axes) -> None:
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(_as_percent)


def _as_percent(value: float, _place: float | None) -> str:
    return f"{100 * value:.0f} %"


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=1.8,
        borderaxespad=0.2,
    )
