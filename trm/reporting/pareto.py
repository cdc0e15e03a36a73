"""How far more thinking helps, for people: a figure of accuracy against network passes, and the settings in words."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trm.storage.artifacts import staged, write_json, write_manifest
from trm.config.evaluation import ReportParams
from trm.data.parquet import read_meta
from trm.utils.device import resolve_device, resolve_precision
from trm.evaluation.sweep import SCORES, WITHIN, Curve, Knobs, Row, find, frontier, measure_curve, one_dial
from trm.evaluation.eval_dataset import check_same_dataset
from trm.utils.paths import file_digest
from trm.reporting.figures.charts import STYLE
from trm.reporting.html.summary import points, with_interval
from trm.training.checkpoint import checkpoint_file, load_checkpoint

DIALS = {
    "steps": "{} step{}",
    "early_halting": "early halting",
    "verify": "check of the rules",
    "votes": "{} vote{}",
    "rollouts": "{} rollout{}",
    "noise": "noise {:g}",
}
"""How a dial that is turned is told: its value, and the ending of more than one."""
FAMILIES = (("one try", "C0", "o"), ("votes", "C1", "s"), ("rollouts", "C2", "^"), ("votes and rollouts", "C3", "D"))
"""Settings by what they repeat: name, colour, mark."""


def described(row: Knobs | Row, plain: Knobs) -> str:
    """What a setting turns away from `plain`, in words; its steps always."""
    turned = [name for name in DIALS if row[name] != plain[name] or name == "steps"]
    return ", ".join(DIALS[name].format(row[name], "" if row[name] == 1 else "s") for name in turned)


def judged(row: Row) -> str:
    """Whether the setting is better than the plain one, where the interval of the difference leaves 0 out."""
    if row["difference_low"] > 0:
        return "helps"
    return "harms" if row["difference_high"] < 0 else "cannot tell"


def figure(curve: Curve) -> Figure:
    """Accuracy on the test puzzles against mean passes: every setting, the frontier, the plain and the chosen one."""
    rows = curve["splits"][SCORES]["settings"]
    with rc_context(STYLE):
        made = Figure(figsize=(5.6, 3.8))
        axes = made.subplots()
        for number, (name, colour, mark) in enumerate(FAMILIES):
            own = [row for row in rows if (row["votes"] > 1) + 2 * (row["rollouts"] > 1) == number]
            x, y = [row["passes"] for row in own], [row["exact"] for row in own]
            if own:
                axes.plot(x, y, mark, color=colour, markersize=4, alpha=0.55, label=name, linestyle="none")
        best = frontier(rows)
        x, y = [row["passes"] for row in best], [row["exact"] for row in best]
        reach = [[row["exact"] - row["low"] for row in best], [row["high"] - row["exact"] for row in best]]
        axes.errorbar(x, y, reach, color="C7", linewidth=1.2, capsize=2, label="frontier, 95 % interval", zorder=1)
        named = {"plain": curve["plain"], "cheapest within a point": curve["chosen"]}
        for (words, setting), mark in zip(named.items(), ("*", "o"), strict=True):
            if setting is not None:
                row = find(rows, setting)
                style = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": "none"}
                axes.plot([row["passes"]], [row["exact"]], marker=mark, label=words, **style)
        axes.set_xscale("log")
        axes.set_xlabel("network passes for a puzzle, mean")
        axes.set_ylabel(f"exact, {curve['splits'][SCORES]['puzzles']:,} test puzzles")
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.legend(loc="best", fontsize="small")
        return made


def told(curve: Curve) -> RenderableType:
    """The frontier, every dial by itself, and the setting that is chosen, for a terminal."""
    rows, plain = curve["splits"][SCORES]["settings"], curve["plain"]
    best = _table("The frontier: settings that no other beats at their cost")
    _add(best, frontier(rows), plain)
    alone = _table(f"Each dial by itself against the plain setting ({described(plain, plain)})")
    _add(alone, [find(rows, plain), *(row for _, row in one_dial(rows, plain))], plain)
    return Group(best, Text(), alone, Text(), *(Text(line) for line in sentences(curve)))


def sentences(curve: Curve) -> Iterator[str]:
    """What early halting saves, and the setting that is chosen."""
    rows, plain = curve["splits"][SCORES]["settings"], curve["plain"]
    as_published, halting = find(rows, plain), find(rows, Knobs(**{**plain, "early_halting": True}))
    saved = 100 * (1 - halting["passes"] / as_published["passes"])
    yield f"Early halting saves {saved:.0f} % of the passes of the plain setting, at {difference(halting)} points."
    if curve["chosen"] is None:
        yield "No setting is chosen: there are no validation puzzles, and test puzzles choose nothing."
        return
    row = find(rows, curve["chosen"])
    near, share = 100 * WITHIN, row["passes"] / as_published["passes"]
    yield (
        f"Cheapest within {near:g} point of the best on the validation puzzles: {described(row, plain)}. On the test "
        f"puzzles {exact(row)} with {row['passes']:,.1f} passes, {100 * share:.0f} % of plain."
    )


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("setting")
    for name in ("passes", "exact", "to plain, points"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    return table


def _add(table: Table, rows: Sequence[Row], plain: Knobs) -> None:
    for row in rows:
        is_plain = all(row[name] == plain[name] for name in DIALS)
        told = ("plain", "") if is_plain else (difference(row), judged(row))
        table.add_row(described(row, plain), f"{row['passes']:,.1f}", exact(row), *told)


def exact(row: Row) -> str:
    """The accuracy of a setting with its interval."""
    return with_interval({"value": row["exact"], "low": row["low"], "high": row["high"]})


def difference(row: Row) -> str:
    """How much more accurate than the plain setting, in percentage points, with its interval."""
    low, high = points(row["difference_low"]), points(row["difference_high"])
    return f"{points(row['difference'])} [{low}, {high}]"


def run_curve(model: Path, dataset: Path, settings: ReportParams, out: Path) -> Curve:
    """Measure `settings.curve` of a model and write curve.json, curve.png and curve.svg to `out`, all or none.

    Raises `UserError` where the model was trained on other data, `DataError` for a broken checkpoint or data set.
    """
    assert settings.curve is not None
    device = resolve_device(settings.device)
    net, trained_on = load_checkpoint(model, dtype=resolve_precision(settings.precision, device))
    meta = read_meta(dataset)
    check_same_dataset(model, trained_on, dataset, meta)
    with staged(out) as staging:
        curve = measure_curve(net.to(device), meta, dataset, settings.curve, settings.batch_size, settings.seed)
        write_json(staging / "curve.json", curve)
        with rc_context({"svg.hashsalt": "curve"}):
            drawn = figure(curve)
            drawn.savefig(staging / "curve.png", dpi=120)
            drawn.savefig(staging / "curve.svg", metadata={"Date": None})
        write_manifest(staging, {"stage": "curve", "facts": {"model": file_digest(checkpoint_file(model))}})
    return curve
