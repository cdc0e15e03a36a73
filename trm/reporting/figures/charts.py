"""Charts of the HTML report: matplotlib figures, embedded as SVG with the fonts and colors of the page.

`inline_svg` replaces matplotlib's colors by CSS variables of the page, so that charts follow the light or dark theme.
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
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from trm.evaluation.metrics import Estimate
from trm.reporting.statistics import Bin, Calibration, RiskCoverage

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
"""matplotlib color (C0 to C3 and C7, grid, black and white) -> CSS variable of the page."""
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
SIZES = {2: (3.7, 2.6), 3: (5.75, 2.9), 6: (11.9, 3.2)}
"""Columns of the page that a figure spans, of six -> its size in inches: the text has one size in all of them."""
LINES, MARKS = ("-", "--", ":"), ("o", "s", "^")

Scale = Literal["number", "fraction", "log"]
Columns = Mapping[str, npt.NDArray[np.float64]]


def inline_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Convert the figure to an SVG element with a text alternative; its ids start with `name`."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_facecolor("none")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)  # `savefig` draws twice
    text = file.getvalue()
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2]
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # The ids of all figures must be unique in the document.
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub("|".join(THEME), lambda found: THEME[found[0]], body)
    body = re.sub(r"[ \t]*\n[ \t]*", "\n", body)
    label = escape(f"{title}. {description}")
    head = f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}">'
    return Markup(f"{head}<title>{escape(title)}</title>{body.strip()}")


def lines(columns: Columns, names: Mapping[str, str], scale: Scale, span: int = 2) -> Figure:
    """Line chart of the columns in `names` (column -> label) against the column `step`."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZES[span])
        axes = figure.subplots()
        for number, (name, words) in enumerate(names.items()):
            known = np.isfinite(columns[name])
            few = {"marker": MARKS[number % 3], "markersize": 3.5} if known.sum() <= 30 else {}
            style = {"color": f"C{number}", "linestyle": LINES[number % 3], "label": words, **few}
            axes.plot(columns["step"][known], columns[name][known], **style)  # pyright: ignore[reportArgumentType]
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


def scores(bins: Sequence[Bin], names: Mapping[str, str], x: str, span: int = 3) -> Figure:
    """Accuracy in each bin with its interval, for the scores in `names` (score -> label)."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZES[span])
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


def stacked(bins: Sequence[Bin], name: str, words: tuple[str, str], x: str, span: int = 3) -> Figure:
    """Stacked bars of the puzzles in each bin: those with the score `name` below the others; `words` label the two."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZES[span])
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


def reliability(calibrated: Calibration, span: int = 3) -> Figure:
    """Reliability diagram of the halt logit."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZES[span])
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="C7", linestyle=":", linewidth=1.2)
        estimates = [each.scores["exact"] for each in calibrated.bins]
        _with_intervals(axes, np.array(calibrated.probability), estimates, 0, "")
        axes.set_xlim(-0.04, 1.04)
        axes.xaxis.set_major_formatter(_as_percent)
        axes.set_xlabel("sigmoid of the halt logit")
        axes.set_ylabel("exact answers")
        _percent(axes)
        return figure


def risk_coverage(
    curve: RiskCoverage, shown: npt.NDArray[np.int64], marked: Mapping[int, Estimate], span: int = 3
) -> Figure:
    """Accuracy among the answered puzzles against coverage.

    shown: indices of the points of the curve that are drawn. marked: index -> accuracy, drawn with its interval.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=SIZES[span])
        axes = figure.subplots()
        accuracy = (curve.correct / curve.answered)[shown]
        axes.plot(curve.coverage[shown], accuracy, color="C0")
        _with_intervals(axes, curve.coverage[list(marked)], list(marked.values()), 0, "")
        # Accuracies close to 100 % must be distinguishable.
        least = min(accuracy.min(), *(estimate["low"] or 0 for estimate in marked.values()))
        margin = 0.06 * (1 - least) + 0.001
        axes.set_ylim(least - margin, 1 + margin)
        axes.yaxis.set_major_formatter(lambda value, _place: f"{100 * value:.4g} %")
        axes.set_xlim(-0.04, 1.04)
        axes.xaxis.set_major_formatter(_as_percent)
        axes.set_xlabel("coverage: puzzles answered")
        axes.set_ylabel("correct answers among them")
        return figure


def _with_intervals(
    axes: Axes,
    places: npt.NDArray[np.float64],
    estimates: Sequence[Estimate],
    number: int,
    words: str,
) -> None:
    values, lows, highs = (np.array([each[name] for each in estimates], float) for name in ("value", "low", "high"))
    errors = np.maximum([values - lows, highs - values], 0)  # rounding may put the value outside its bounds
    style = {"color": f"C{number}", "fmt": MARKS[number % 3], "markersize": 5, "capsize": 2.5, "elinewidth": 1.2}
    axes.errorbar(places, values, errors, label=words, **style)  # pyright: ignore[reportArgumentType]


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
