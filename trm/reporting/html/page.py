"""The stage `report`: one self-contained HTML file about an experiment."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trm.config.evaluation import ReportParams
from trm.data.parquet import read_counts, read_leaks, read_meta, read_split
from trm.datasets.drawings import get_drawing
from trm.evaluation.stored_trajectories import FILE as TRAJECTORIES
from trm.evaluation.stored_trajectories import StoredTrajectories
from trm.evaluation.sweep import run_sweep
from trm.reporting import statistics
from trm.reporting.html import gallery, sections, summary
from trm.reporting.html.test_time_compute import sweep_section
from trm.reporting.predictions import read_predictions
from trm.storage.artifacts import read_manifest
from trm.training.checkpoint import load_checkpoint, read_settings
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.errors import DataError

FILE = "report.html"
PRODUCERS = {"dataset": "augment", "model": "train", "evaluation": "evaluate"}
"""Folder -> the stage that writes it."""
HERE = Path(__file__).parent
"""Template, style and script are in this folder, with the stem of this file."""


def report(
    report: ReportParams, dataset: Path, model: Path, evaluation: Path, out: Path, key: str
) -> dict[str, object]:
    """Write `out`/report.html with settings, curves, metrics and test puzzles; return the facts of the manifest.

    The model is run again on the puzzles shown step by step. The same inputs give the same bytes. Raises `DataError`
    for a damaged folder, or folders that do not belong together.
    """
    settings = report
    manifests = _manifests({"dataset": dataset, "model": model, "evaluation": evaluation})
    inference = manifests["evaluation"]["params"]["evaluate"]
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    file = evaluation / "predictions.parquet"
    meta, table = read_meta(dataset), read_predictions(file)
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    header = read_settings(model)
    net, _ = load_checkpoint(model, dtype=dtype)
    net = net.to(device)
    most = net.config.halt_max_steps
    sweep, grid = None, settings.test_time_compute
    if grid is not None and table.known.any():
        stored = partial(_stored, evaluation, manifests["evaluation"], settings.seed, device, dtype)
        sweep = run_sweep(net, meta, dataset, grid, settings.batch_size, settings.seed, stored)
    source = (meta, dataset, file, table)
    steps = min(inference["max_steps"], gallery.MAX_STEPS)
    chosen = gallery.choose_examples(table, settings.num_examples, settings.seed).tolist()
    page = {
        "subject": summary.subject(meta),
        "arch": net.config.arch,
        "headline": summary.headline(meta, metrics, settings.published, inference["selection"]),
        "experiment": [
            *summary.experiment(
                meta,
                net,
                header.facts.get("step"),
                metrics,
                read_counts(dataset)["test"]["groups"],
                read_leaks(dataset),
            ),
            *summary.durations({"Training": model, "Evaluation": evaluation}),
        ],
        "keys": {name: manifest["key"] for name, manifest in manifests.items()} | {"report": key},
        "scores": summary.scores(metrics, settings.published),
        "counts": summary.counts(metrics | statistics.halting(table, most), most),
        "training": sections.training(model),
        "selected_by_validation": "validation" in read_counts(dataset),
        "difficulty": sections.difficulty(meta, table, read_split(dataset / "test")),
        "tasks": sections.tasks(meta, table, settings.seed),
        "vote": sections.vote(table),
        "calibration": sections.calibration(table),
        "selective": sections.selective_prediction(table, inference["selection"]),
        "min_confidence": inference["min_confidence"],
        "known": bool(table.known.any()),
        "has_mistakes": bool((table.known & ~table.correct).any()),
        "total": len(table),
        "seed": settings.seed,
        "steps": steps,
        "other_settings": [
            *(name for name in ("num_samples", "early_halting", "verify") if inference[name] not in (1, False)),
            *([f"selection {inference['selection']}"] if inference["selection"] != "votes" else []),
        ],
        "evaluated_steps": inference["max_steps"],
        "gallery": gallery.step_by_step(net, *source, chosen, steps, settings.batch_size),
        "mistakes": gallery.mistakes(*source, gallery.confident_mistakes(table).tolist()),
        "drawing": gallery.script_drawing(get_drawing(meta)),
        "test_time_compute": sweep_section(sweep),
        "origins": summary.origins(manifests, header.model.model_dump(mode="json")),
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup((HERE / "page.js").read_text(encoding="utf-8")),
    }
    (out / FILE).write_text(render(page), encoding="utf-8")
    return {
        "device": device.type,
        "precision": _name(dtype),
        "bytes": (out / FILE).stat().st_size,
        "puzzles": len(table),
    }


def render(page: Mapping[str, Any]) -> str:
    """Render the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": True, "allow_nan": False}
    environment.filters |= {"percent": summary.percent}
    return environment.get_template("page.html.j2").render(page)


def _stored(
    evaluation: Path,
    manifest: Mapping[str, Any],
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    split: str,
    steps: int,
) -> StoredTrajectories | None:
    """The trajectories of a split that the evaluation has stored; None if it had other settings than the report."""
    inference, facts, file = manifest["params"]["evaluate"], manifest["facts"], evaluation / TRAJECTORIES
    settings = (inference["seed"], facts["device"], facts["precision"])
    if settings != (seed, device.type, _name(dtype)) or inference["max_steps"] < steps or not file.is_file():
        return None
    return StoredTrajectories.read(file, split, steps)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _manifests(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The manifests of the folders; the evaluation must be one of this dataset and this model."""
    manifests = {name: read_manifest(folder, PRODUCERS[name]) for name, folder in folders.items()}
    for name, key in manifests["evaluation"]["inputs"].items():
        if manifests[name]["key"] != key:
            raise DataError(
                f"{folders['evaluation']}: is the evaluation of another {name} than {folders[name]}; give the {name} "
                "that was evaluated, or run `trm evaluate` again"
            )
    return manifests
