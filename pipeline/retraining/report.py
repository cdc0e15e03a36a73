"""Report of a comparison: Markdown for pull requests, and a self-contained HTML file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.markdown import escape_markdown
from pipeline.results import Result, format_percent
from pipeline.retraining.compare import Comparison
from trm.utils.output import printable_lines

CURVES = (("train.tsv", "loss", "Training loss"), ("validation.tsv", "exact_accuracy", "Exact accuracy, validation"))


def write_report(comparison: Comparison, stem: Path) -> list[Path]:
    """Write `<stem>.md` and `<stem>.html`; return both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    markdown, html = stem.with_suffix(".md"), stem.with_suffix(".html")
    markdown.write_text(as_markdown(comparison), encoding="utf-8")
    html.write_text(as_html(comparison), encoding="utf-8")
    return [markdown, html]


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    return _environment(escape=False).get_template("comparison.md.j2").render(_template_values(comparison))


def as_html(comparison: Comparison) -> str:
    """Return the comparison as an HTML page with training curves, which loads no other files."""
    curves = [chart for curve in CURVES if (chart := _chart(comparison, *curve))]
    return (
        _environment(escape=True).get_template("comparison.html.j2").render(_template_values(comparison), curves=curves)
    )


def write_first_report(result: Result, stem: Path) -> list[Path]:
    """Write `<stem>.md` for a result without a champion to compare with; return its path."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".html").unlink(missing_ok=True)  # it belongs to another comparison
    markdown = stem.with_suffix(".md")
    score = format_percent(result.metrics.get("exact_accuracy"))
    markdown.write_text(
        f"### First result of {result.dataset}\n\nExact accuracy {score} on the test puzzles. There is no champion "
        "to compare with.\n",
        encoding="utf-8",
    )
    return [markdown]


def headline(comparison: Comparison) -> str:
    """Return verdict, scores, difference with interval, and p-value in one line."""
    paired = comparison.paired
    if comparison.verdict == "no difference":
        verdict = "No significant difference"
    else:
        verdict = f"The candidate is {comparison.verdict}"
    interval = f"[{format_points(paired.low)}, {format_points(paired.high)}]"
    return (
        f"{verdict}: {format_percent(paired.candidate)} against {format_percent(paired.champion)} of {paired.n} "
        f"{comparison.split} puzzles, {format_points(paired.difference)} {interval}, "
        f"p = {paired.p:.2g}"
    )


def format_points(difference: float) -> str:
    """Return a difference of fractions as signed percentage points with one digit."""
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
    environment.filters |= {
        "percent": format_percent,
        "points": format_points,
        "number": _format_number,
        "cell": _format_cell,
        "text": escape_markdown,
    }
    return environment


def _template_values(comparison: Comparison) -> dict[str, Any]:
    return {"c": comparison, "paired": comparison.paired, "headline": headline(comparison), "note": _note(comparison)}


def _note(comparison: Comparison) -> str:
    if comparison.split == "validation":
        return (
            "Compared on validation puzzles that both models held out of training. Test puzzles are not used for "
            "model selection."
        )
    return (
        "Compared on TEST puzzles, because the models have no validation puzzles in common: the test score of a model "
        "that is selected this way is biased upwards. Set augment.validation_groups above 0 to avoid this."
    )


def _format_number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)


def _format_cell(value: object) -> str:
    """Return a value as code in a cell of a Markdown table."""
    text = printable_lines(_format_number(value)).replace("`", "'").replace("|", "\\|").replace("\n", " ")
    return f"`{text}`"


def _chart(comparison: Comparison, file: str, column: str, title: str) -> dict[str, str] | None:
    """Return title and SVG of a chart of both curves, in the page's CSS colors; None without data."""
    import vl_convert

    curves = [
        (name, result.training_log(file))
        for name, result in (("candidate", comparison.candidate), ("champion", comparison.champion))
    ]
    values = [
        {"step": point["step"], "value": point[column], "model": name}
        for name, curve in curves
        for point in curve
        if column in point
    ]
    if not values:
        return None
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    axis = {**text, "gridColor": "var(--grid)", "domainColor": "currentColor", "tickColor": "currentColor"}
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
            "color": {"field": "model", "type": "nominal", "scale": models, "legend": {**text, "title": None}},
        },
    }
    return {"title": title, "svg": vl_convert.vegalite_to_svg(chart)}
