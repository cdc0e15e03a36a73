"""The results of the test-time-compute sweep: a figure of accuracy against forward passes, tables and sentences."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from trm.config.evaluation import ReportParams
from trm.data.parquet import read_meta
from trm.evaluation.eval_dataset import check_same_dataset
from trm.evaluation.sweep import (
    SCORING_SPLIT,
    TOLERANCE,
    Row,
    SweepResults,
    find_row,
    pareto_front,
    run_sweep,
    single_changes,
)
from trm.reporting.figures.charts import STYLE
from trm.reporting.html.summary import points, with_interval
from trm.reporting.terminal.tables import columns, plain
from trm.storage.artifacts import staged, write_json, write_manifest
from trm.training.checkpoint import checkpoint_file, load_checkpoint
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.paths import file_digest

PHRASES = {
    "max_steps": "{} step{}",
    "early_halting": "early halting",
    "num_samples": "{} sample{}",
    "latent_noise_std": "noise {:g}",
    "verify": "verification",
    "num_votes": "{} vote{}",
    "selection": "selection {}",
    "min_confidence": "confidence from {:g}",
}
"""Setting -> phrase with its value and a plural ending."""
GROUPS = (("single answer", "C0", "o"), ("votes", "C1", "s"), ("samples", "C2", "^"), ("votes and samples", "C3", "D"))
"""Name, color and marker of the settings without and with votes and samples."""
SHORT = {"not significant": "n.s."}
NOTE = "n.s.: not significant; the 95 % interval of the difference, in brackets, contains 0"


def describe(settings: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """The settings that differ from the published ones, and the steps."""
    changed = [name for name in PHRASES if settings[name] != published[name] or name == "max_steps"]
    return ", ".join(PHRASES[name].format(settings[name], "" if settings[name] == 1 else "s") for name in changed)


def verdict(row: Row) -> str:
    """Whether a setting is better than the published one: whether the interval of the difference excludes 0."""
    if row["difference_low"] > 0:
        return "better"
    return "worse" if row["difference_high"] < 0 else "not significant"


def figure(results: SweepResults, size: tuple[float, float] = (5.6, 3.8)) -> Figure:
    """Accuracy on the test puzzles against mean forward passes: all settings and the Pareto front."""
    rows = results["splits"][SCORING_SPLIT]["rows"]
    with rc_context(STYLE):
        made = Figure(figsize=size)
        axes = made.subplots()
        for number, (name, color, marker) in enumerate(GROUPS):
            of_group = [
                row
                for row in rows
                if (row["settings"]["num_votes"] > 1) + 2 * (row["settings"]["num_samples"] > 1) == number
            ]
            x, y = [row["forward_passes"] for row in of_group], [row["exact"] for row in of_group]
            if of_group:
                axes.plot(x, y, marker, color=color, markersize=4, alpha=0.55, label=name, linestyle="none")
        front = pareto_front(rows)
        x, y = [row["forward_passes"] for row in front], [row["exact"] for row in front]
        errors = [[row["exact"] - row["low"] for row in front], [row["high"] - row["exact"] for row in front]]
        axes.errorbar(x, y, errors, color="C7", linewidth=1.2, capsize=2, label="Pareto front, 95 % interval", zorder=1)
        marked = {"published setting": results["published"], "cheapest within a point": results["selected"]}
        for (label, settings), marker in zip(marked.items(), ("*", "o"), strict=True):
            if settings is not None:
                row = find_row(rows, settings)
                style = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": "none"}
                axes.plot([row["forward_passes"]], [row["exact"]], marker=marker, label=label, **style)
        axes.set_xscale("log")
        axes.set_xlabel("mean forward passes per puzzle")
        axes.set_ylabel(f"exact accuracy, {results['splits'][SCORING_SPLIT]['puzzles']:,} test puzzles")
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.legend(loc="best", fontsize="small")
        return made


def terminal_tables(results: SweepResults) -> RenderableType:
    """The Pareto front, the effect of each setting alone, and the selected setting, for a terminal."""
    rows, published = results["splits"][SCORING_SPLIT]["rows"], results["published"]
    front = _table("Pareto front: settings that no cheaper setting matches", pareto_front(rows), published)
    title = f"Each setting alone against the published one ({describe(published, published)})"
    alone = _table(title, [find_row(rows, published), *(row for _, row in single_changes(rows, published))], published)
    return Group(front, alone, Text(f"\n{NOTE}", "dim"), Text(), *(Text(plain(line)) for line in sentences(results)))


def sentences(results: SweepResults) -> Iterator[str]:
    """The effect of early halting, and the selected setting."""
    rows, published = results["splits"][SCORING_SPLIT]["rows"], results["published"]
    baseline, halting = find_row(rows, published), find_row(rows, {**published, "early_halting": True})
    saved = 100 * (1 - halting["forward_passes"] / baseline["forward_passes"])
    cost = difference(halting)
    yield f"Early halting saves {saved:.0f} % of the forward passes of the published setting, at {cost} points."
    if results["selected"] is None:
        yield "No setting is selected: there are no validation puzzles, and test puzzles are never used for selection."
        return
    row = find_row(rows, results["selected"])
    tolerance, share = 100 * TOLERANCE, row["forward_passes"] / baseline["forward_passes"]
    yield (
        f"Cheapest within {tolerance:g} point of the best on the validation puzzles: "
        f"{describe(row['settings'], published)}. On the test puzzles {exact(row)} with {row['forward_passes']:,.1f} "
        f"forward passes, {100 * share:.0f} % of the published setting."
    )


def _table(title: str, rows: Sequence[Row], published: Mapping[str, Any]) -> RenderableType:
    lines = []
    for row in rows:
        is_published = row["settings"] == published
        comparison = ("published", "") if is_published else (difference(row), SHORT.get(verdict(row), verdict(row)))
        lines.append((describe(row["settings"], published), f"{row['forward_passes']:,.1f}", exact(row), *comparison))
    return columns(title, ("setting", "passes", "exact", "difference, points", ""), lines)


def exact(row: Row) -> str:
    """The accuracy of a setting with its interval."""
    return with_interval({"value": row["exact"], "low": row["low"], "high": row["high"]})


def difference(row: Row) -> str:
    """The accuracy minus that of the published setting, in percentage points, with its interval."""
    low, high = points(row["difference_low"]), points(row["difference_high"])
    return f"{points(row['difference'])} [{low}, {high}]"


def write_sweep(model: Path, dataset: Path, settings: ReportParams, out: Path) -> SweepResults:
    """Run the sweep `settings.test_time_compute` and write sweep.json, sweep.png and sweep.svg to `out` atomically.

    Raises `UserError` if the model was trained on another dataset, `DataError` for a damaged checkpoint or dataset.
    """
    grid = settings.test_time_compute
    assert grid is not None
    device = resolve_device(settings.device)
    net, trained_on = load_checkpoint(model, dtype=resolve_precision(settings.precision, device))
    meta = read_meta(dataset)
    check_same_dataset(model, trained_on, dataset, meta)
    with staged(out) as staging:
        results = run_sweep(net.to(device), meta, dataset, grid, settings.batch_size, settings.seed)
        write_json(staging / "sweep.json", results)
        with rc_context({"svg.hashsalt": "sweep"}):
            made = figure(results)
            made.savefig(staging / "sweep.png", dpi=120)
            made.savefig(staging / "sweep.svg", metadata={"Date": None})
        write_manifest(staging, {"stage": "sweep", "facts": {"model": file_digest(checkpoint_file(model))}})
    return results
