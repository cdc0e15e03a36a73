"""The stage `report`: one HTML file about an experiment, which holds all that it shows and asks for nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trm.storage.artifacts import read_manifest
from trm.config.evaluation import ReportParams
from trm.data.parquet import read_counts, read_meta, read_split
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.errors import DataError
from trm.evaluation.sweep import measure_curve
from trm.reporting.html import gallery, sections, summary
from trm.reporting.predictions import read_answered
from trm.reporting.html.test_time_compute import thinking_section
from trm.stages.records import producer
from trm.training.checkpoint import load_checkpoint, read_settings

FILE = "report.html"
HERE = Path(__file__).parent
"""The template, its style and its script lie beside this file, under its name."""


def report(
    report: ReportParams, dataset: Path, model: Path, evaluation: Path, out: Path, key: str
) -> dict[str, object]:
    """Write `out`/report.html, which shows settings, curves, scores and test puzzles of an experiment.

    The model is asked again for the puzzles that are shown step by step. The same inputs give the same bytes.
    Raises `DataError` for folders that do not belong together, or a broken one.
    """
    settings = report
    manifests = _manifests({"dataset": dataset, "model": model, "evaluation": evaluation})
    asked = manifests["evaluation"]["params"]["evaluate"]
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    predictions = evaluation / "predictions.parquet"
    meta, answered = read_meta(dataset), read_answered(predictions)
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    header = read_settings(model)
    net, _ = load_checkpoint(model, dtype=dtype)
    net = net.to(device)
    curve = None
    if settings.curve is not None and answered.known.any():
        curve = measure_curve(net, meta, dataset, settings.curve, settings.batch_size, settings.seed)
    where = (meta, dataset, predictions, answered)
    chosen = gallery.choose(answered, settings.gallery, settings.seed).tolist()
    page = {
        "subject": summary.subject(meta),
        "arch": net.config.arch,
        "headline": summary.headline(meta, metrics, settings.published),
        "experiment": summary.experiment(
            meta, net, header.facts.get("step"), metrics, read_counts(dataset)["test"]["groups"]
        ),
        "keys": {name: manifest["key"] for name, manifest in manifests.items()} | {"report": key},
        "scores": summary.scores(metrics, settings.published),
        "counts": summary.counts(metrics),
        "training": sections.training(model),
        "chosen_by_validation": "validation" in read_counts(dataset),
        "difficulty": sections.difficulty(meta, answered, read_split(dataset / "test")),
        "tasks": sections.tasks(meta, answered, settings.seed),
        "vote": sections.vote(answered),
        "calibration": sections.calibration(answered),
        "known": bool(answered.known.any()),
        "total": len(answered),
        "seed": settings.seed,
        "steps": asked["steps"],
        "dials": {
            name: asked[name] for name in ("rollouts", "early_halting", "verify") if asked[name] not in (1, False)
        },
        "gallery": gallery.step_by_step(net, *where, chosen, asked["steps"], settings.batch_size),
        "mistakes": gallery.mistakes(*where, gallery.confident_mistakes(answered).tolist()),
        "looks": gallery.looks(meta),
        "thinking": thinking_section(curve),
        "origins": summary.origins(manifests, header.model.model_dump(mode="json")),
        "style": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup((HERE / "page.js").read_text(encoding="utf-8")),
    }
    (out / FILE).write_text(render(page), encoding="utf-8")
    return {
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "bytes": (out / FILE).stat().st_size,
        "puzzles": len(answered),
    }


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML."""
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


def _manifests(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The manifests of the folders, of which the evaluation is of the other two."""
    manifests = {name: read_manifest(folder, producer(name).name) for name, folder in folders.items()}
    for name, key in manifests["evaluation"]["inputs"].items():
        if manifests[name]["key"] != key:
            raise DataError(
                f"{folders['evaluation']}: is of another {name} than {folders[name]}; name the {name} that was "
                "evaluated, or run `trm evaluate` again"
            )
    return manifests
