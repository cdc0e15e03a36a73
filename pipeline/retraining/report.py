"""A comparison for people: Markdown for a pull request, and one HTML file with everything in it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.results import Result
from pipeline.retraining.compare import Comparison

CURVES = (("train.tsv", "loss", "Training loss"), ("validation.tsv", "exact_accuracy", "Exact accuracy, validation"))


def write_report(comparison: Comparison, stem: Path) -> list[Path]:
    """Write `stem`.md and `stem`.html; both files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    markdown, html = stem.with_suffix(".md"), stem.with_suffix(".html")
    markdown.write_text(as_markdown(comparison), encoding="utf-8")
    html.write_text(as_html(comparison), encoding="utf-8")
    return [markdown, html]


def as_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    return _environment(escape=False).get_template("comparison.md.j2").render(_facts(comparison))


def as_html(comparison: Comparison) -> str:
    """The comparison as an HTML page that loads nothing, with the training's curves."""
    curves = [chart for curve in CURVES if (chart := _chart(comparison, *curve))]
    return _environment(escape=True).get_template("comparison.html.j2").render(_facts(comparison), curves=curves)


def write_first(result: Result, stem: Path) -> list[Path]:
    """The report of a result that has no champion to be compared with; its one file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".html").unlink(missing_ok=True)  # it would be of another comparison
    markdown = stem.with_suffix(".md")
    score = percent(result.metrics.get("exact_accuracy"))
    markdown.write_text(
        f"### The first result of {result.data_set}\n\nExact accuracy {score} on the test puzzles; there is no "
        "champion to compare with yet.\n",
        encoding="utf-8",
    )
    return [markdown]


def headline(comparison: Comparison) -> str:
    """The verdict in one line."""
    paired = comparison.paired
    if comparison.verdict == "no difference":
        said = "No difference that counts"
    else:
        said = f"The candidate is {comparison.verdict}"
    return (
        f"{said}: {percent(paired.candidate)} against {percent(paired.champion)} of {paired.n} "
        f"{comparison.split} puzzles, {points(paired.difference)} [{points(paired.low)}, {points(paired.high)}], "
        f"p = {paired.p:.2g}"
    )


def percent(fraction: float | None) -> str:
    """A fraction for people."""
    return "none" if fraction is None else f"{100 * fraction:.1f} %"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "points": points, "number": _number, "cell": _cell}
    return environment


def _facts(comparison: Comparison) -> dict[str, Any]:
    return {"c": comparison, "paired": comparison.paired, "headline": headline(comparison), "note": _note(comparison)}


def _note(comparison: Comparison) -> str:
    if comparison.split == "validation":
        return (
            "Decided on validation puzzles, which both models held out of their training; test puzzles chose nothing."
        )
    return (
        "Decided on TEST puzzles, for there are no validation puzzles in common: the score of what is chosen by them "
        "is too good by the choice. Set augment.validation_groups above 0 to choose by others."
    )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def _cell(value: object) -> str:
    """Any value as code inside a Markdown table."""
    text = _number(value).replace("`", "'").replace("|", "\\|").replace("\n", " ")
    return f"`{text}`"


def _chart(comparison: Comparison, file: str, column: str, title: str) -> dict[str, str] | None:
    """A chart of both curves as SVG, in colours that the page decides."""
    import vl_convert

    lines = [
        (name, result.curve(file))
        for name, result in (("candidate", comparison.candidate), ("champion", comparison.champion))
    ]
    values = [
        {"step": point["step"], "value": point[column], "model": name}
        for name, curve in lines
        for point in curve
        if column in point
    ]
    if not values:
        return None
    words = {"labelColor": "currentColor", "titleColor": "currentColor"}
    axis = {**words, "gridColor": "var(--grid)", "domainColor": "currentColor", "tickColor": "currentColor"}
    models = {"domain": ["candidate", "champion"], "range": ["var(--candidate)", "var(--champion)"]}
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 520,
        "height": 220,
        "background": None,
        "config": {"view": {"stroke": None}, "axis": axis},
        "data": {"values": values},
        "mark": {"type": "line", "point": len(values) < 100},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "step"},
            "y": {"field": "value", "type": "quantitative", "title": None},
            "color": {"field": "model", "type": "nominal", "scale": models, "legend": {**words, "title": None}},
        },
    }
    return {"title": title, "svg": vl_convert.vegalite_to_svg(chart)}
