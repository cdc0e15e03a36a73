"""`trm inspect`: what an artifact is made of, whichever stage wrote it."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trm.artifacts import MANIFEST, verified_manifest
from trm.data.inspect import describe


def inspect_artifact(path: Path, puzzles: int) -> None:
    """Print an artifact's counts, shapes, lineage and `puzzles` of its puzzles. Raises `DataError`."""
    console = Console()
    manifest = verified_manifest(path) if (path / MANIFEST).is_file() else None
    stage = manifest["stage"] if manifest else None
    if stage == "train":
        console.print(_model(path))
    elif stage == "evaluate":
        console.print(_evaluation(path))
    else:
        console.print(describe(path, puzzles))
    if manifest:
        console.print(_lineage(manifest))


def _model(path: Path) -> Table:
    from trm.model.supervision import build_model
    from trm.training.checkpoint import read_settings

    header = read_settings(path)
    model = build_model(header.model, header.meta)
    table = _table(f"{path}: a model")
    table.add_row("parameters", f"{sum(weight.numel() for weight in model.parameters()):,}")
    table.add_row("puzzle table", " x ".join(map(str, model.puzzle_table.shape)))
    table.add_row("data", f"{header.meta.kind} {header.meta.height} x {header.meta.width}")
    for name, value in header.model:
        table.add_row(name, str(value))
    for name, value in header.facts.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else str(value))
    return table


def _evaluation(path: Path) -> Table:
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    intervals = metrics.pop("interval_95")
    table = _table(f"{path}: scores (with 95 % intervals)")
    for name, value in metrics.items():
        low, high = intervals.get(name, (None, None))
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        table.add_row(name, shown + (f"  ({low:.4f} to {high:.4f})" if low is not None else ""))
    return table


def _lineage(manifest: dict[str, Any]) -> Table:
    table = _table(f"made by `trm {manifest['stage']}`")
    table.add_row("key", manifest["key"])
    for name, key in manifest.get("inputs", {}).items():
        table.add_row(f"from {name}", key)
    for section, values in manifest.get("params", {}).items():
        table.add_row(section, json.dumps(values))
    for name, value in {**manifest.get("versions", {}), **manifest.get("facts", {})}.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else str(value))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
