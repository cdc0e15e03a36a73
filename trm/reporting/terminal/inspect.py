"""`trm inspect`: the contents of an artifact of any stage."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from trm.reporting.terminal.dataset_summary import describe
from trm.storage.artifacts import MANIFEST, verified_manifest
from trm.utils.file_formats import printable

DESCRIPTIONS = {
    "report": "an HTML report; open report.html in a browser",
    "sweep": "a test-time-compute sweep; see sweep.json and sweep.png",
    "export": "a checkpoint in the published format",
}
"""Stage or command -> description of its output."""


def inspect_artifact(path: Path, puzzles: int) -> None:
    """Print counts, shapes, lineage and the first `puzzles` puzzles of an artifact. Raises `DataError`."""
    console = Console()
    manifest = verified_manifest(path) if (path / MANIFEST).is_file() else None
    stage = manifest["stage"] if manifest else None
    if stage == "train":
        console.print(_model(path))
    elif stage == "evaluate":
        console.print(_evaluation(path))
    elif manifest and stage in DESCRIPTIONS:
        console.print(_facts(f"{path}: {DESCRIPTIONS[stage]}", manifest["facts"].items()))
    else:
        console.print(describe(path, puzzles))
    if manifest:
        console.print(_lineage(manifest))


def _model(path: Path) -> RenderableType:
    from trm.models.act import build_model
    from trm.training.checkpoint import read_settings

    header = read_settings(path)
    model = build_model(header.model, header.meta)
    sizes = {
        "parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "puzzle embedding": " x ".join(map(str, model.puzzle_table.shape)),
        "dataset": f"{header.meta.name} {header.meta.height} x {header.meta.width}",
    }
    return _facts(
        f"{path}: a model", [*sizes.items(), *header.model.model_dump(mode="json").items(), *header.facts.items()]
    )


def _evaluation(path: Path) -> RenderableType:
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    others = metrics.pop("without_leaks", None)
    shown = _scores(metrics) + (_scores(others, " without leaks") if others else [])
    return _facts(f"{path}: metrics (with 95 % intervals)", shown)


def _scores(metrics: dict[str, Any], suffix: str = "") -> list[tuple[str, str]]:
    intervals = metrics.pop("interval_95")
    shown = []
    for name, value in metrics.items():
        low, high = intervals.get(name, (None, None))
        bounds = f"  ({low:.4f} to {high:.4f})" if low is not None else ""
        shown.append((name + suffix, (f"{value:.4f}" if isinstance(value, float) else str(value)) + bounds))
    return shown


def _lineage(manifest: dict[str, Any]) -> RenderableType:
    facts = [("key", manifest["key"])] if "key" in manifest else []
    facts += [(f"from {name}", key) for name, key in manifest.get("inputs", {}).items()]
    for part in ("params", "versions", "facts"):
        facts += manifest.get(part, {}).items()
    command = "checkpoint export" if manifest["stage"] == "export" else manifest["stage"]
    return _facts(f"written by `trm {command}`", facts)


def _facts(title: str, facts: Iterable[tuple[str, object]]) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(printable(value) if isinstance(value, str) else json.dumps(value)))
    return Group(Text(f"\n{printable(title)}", style="bold"), table)
