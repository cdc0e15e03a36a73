"""`trm inspect` of models, training states, params files, studies, sweeps and folders of outputs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from trm.config.base import read_yaml
from trm.config.recipes import summary
from trm.reporting.terminal.tables import Facts, columns, facts, scores
from trm.storage.artifacts import MANIFEST, read_manifest
from trm.utils.errors import DataError
from trm.utils.file_formats import decode_text

DESCRIPTIONS = {
    "fetch": "raw data",
    "augment": "a dataset",
    "train": "a model",
    "evaluate": "an evaluation",
    "report": "an HTML report; open report.html in a browser",
    "sweep": "a test-time-compute sweep",
    "checkpoint export": "a checkpoint in the published format; `trm checkpoint import` reads it",
    "export": "a model for other runtimes: ONNX and torch.export",
    "state": "a training state; `trm train` resumes it",
}
"""Stage or command -> description of its output."""
STUDY = "report.json"
"""A file of every finished study."""
DEPTH = 2
"""Levels of folders that are searched for outputs."""
KEY = 12
"""Characters of the content keys in a list of outputs."""


def read_json(path: Path) -> dict[str, Any]:
    """The contents of a JSON file of an artifact. Raises `DataError`."""
    try:
        values = json.loads(decode_text(path.read_bytes(), path))
    except DataError:  # a subclass of ValueError
        raise
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DataError(f"{path}: not a JSON object; run the command that writes it again")
    return values


def is_imported(manifest: Mapping[str, Any]) -> bool:
    """Whether the artifact is a model that `trm checkpoint import` has written."""
    return manifest["stage"] == "train" and "imported" in manifest.get("facts", {})


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that has written the artifact."""
    if is_imported(manifest):
        return "trm checkpoint import"
    return "trm train" if manifest["stage"] == "state" else f"trm {manifest['stage']}"


def description_of(manifest: Mapping[str, Any]) -> str:
    """The artifact in a few words."""
    if is_imported(manifest):
        return f"a model imported from {manifest['facts']['imported']}"
    return DESCRIPTIONS.get(manifest["stage"], f"an output of {command_of(manifest)}")


def lineage(manifest: Mapping[str, Any], hidden: tuple[str, ...] = ()) -> RenderableType:
    """Key, inputs, settings, versions and facts in a manifest. hidden: names of settings and facts shown elsewhere."""
    title = f"written by `{command_of(manifest)}`"
    # Keys are printed completely, because the URIs of artifacts contain them.
    keys = [("key", manifest["key"])] if "key" in manifest else []
    keys += [(f"from {name}", key) for name, key in manifest.get("inputs", {}).items()]
    parts = (manifest.get(part, {}).items() for part in ("params", "versions", "facts"))
    values = [item for part in parts for item in part if item[0] not in hidden]
    return Group(Facts(title, keys), facts("", values))


def model(path: Path, manifest: Mapping[str, Any] | None) -> RenderableType:
    """The settings and the size of the model in a folder or a checkpoint file."""
    from trm.models.act import build_model
    from trm.training.checkpoint import read_settings

    header = read_settings(path)
    net = build_model(header.model, header.meta)
    imported = header.facts.get("imported")
    what = f"a model imported from {imported}" if imported else "a model"
    sizes: dict[str, object] = {"parameters": f"{sum(weight.numel() for weight in net.parameters()):,}"}
    if net.puzzle_table.numel():
        sizes["puzzle embedding"] = " x ".join(map(str, net.puzzle_table.shape))
    sizes["dataset"] = f"{header.meta.name} {header.meta.height} x {header.meta.width}"
    known = manifest.get("facts", {}) if manifest else {}
    others = {name: value for name, value in header.facts.items() if name not in known}
    return facts(f"{path}: {what}", [*sizes.items(), *header.model.model_dump(mode="json").items(), *others.items()])


def checkpoint_or_state(path: Path) -> RenderableType:
    """A safetensors file of this project: a checkpoint or a training state."""
    from trm.training.checkpoint import read_header

    header = read_header(path)
    if "model" in header:
        return model(path, None)
    if "non_finite_loss" in header:
        return facts(f"{path}: the batch of a non-finite loss", header.items())
    return facts(f"{path}: {DESCRIPTIONS['state']}", header.items())


def params(path: Path) -> RenderableType:
    """A params file, a recipe, a study, or the settings of a published checkpoint."""
    values = read_yaml(path, "give an existing file")
    if not isinstance(values, Mapping):
        raise DataError(f"{path}: contains no settings; give a params file, a recipe or a study")
    kinds = {"runs": "a study; `trm study` runs it", "changes": "a recipe that changes another one"}
    kinds |= {"arch": "the settings of a published checkpoint", "data": "params of an experiment"}
    what = next((words for name, words in kinds.items() if name in values), "settings")
    title = summary(path)
    note = "" if title == path.stem else f". {title}"
    return facts(f"{path}: {what}{note}", values.items())


def log(path: Path) -> RenderableType:
    """The first and the last line of a training log."""
    from trm.reporting.training_log import read_log

    values = read_log(path)
    if not values:
        return facts(f"{path}: a log without rows", [])
    rows = [(name, f"{column[0]:.4g}", f"{column[-1]:.4g}") for name, column in values.items()]
    count = len(next(iter(values.values())))
    return columns(f"{path}: a log of {count:,} rows", ("column", "first", "last"), rows)


def study_score(row: Mapping[str, Any], name: str) -> str:
    """A score of a study in percent, with its 95 % interval."""
    low, high = row[f"{name}_95"]
    if low is None:
        return "-"
    if row["seeds"] > 1:
        return f"{100 * row[name]:.1f} ± {100 * (high - low) / 2:.1f}"
    return f"{100 * row[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def study(folder: Path) -> RenderableType:
    """The scores of a study."""
    report = read_json(folder / STUDY)
    rows = []
    for name, row in report["recipes"].items():
        others = [f"{100 * row[score]:.1f}" for score in ("cell_accuracy", "halt_accuracy")]
        shown = [study_score(row, "exact_accuracy"), *others]
        rows.append((name, str(row["seeds"]), *shown, f"{row['loss_last']:.3g}", f"{row['train_seconds']:.0f} s"))
    head = ("recipe", "seeds", "exact %", "cell %", "halt %", "last loss", "training")
    title = f"{folder}: a study, {report['title']}"
    return columns(title, head, [*rows, *((name, "failed") + ("",) * 5 for name in report["failed"])])


def submission(path: Path) -> RenderableType:
    """The number of tasks and attempts in an ARC submission."""
    tasks = read_json(path)
    counts = {"tasks": len(tasks), "test pairs": sum(map(len, tasks.values()))}
    return facts(f"{path}: a submission to the ARC Prize", counts.items())


def metrics(path: Path) -> RenderableType:
    """The metrics of an evaluation, in its folder or its file metrics.json."""
    values = read_json(path / "metrics.json" if path.is_dir() else path)
    return facts(f"{path}: an evaluation; metrics with 95 % intervals", scores(values))


def sweep(path: Path) -> RenderableType:
    """The tables of a test-time-compute sweep."""
    from trm.reporting.pareto import terminal_tables

    return terminal_tables(read_json(path))  # pyright: ignore[reportArgumentType]


def outputs(folder: Path) -> RenderableType | None:
    """A list of the outputs in a folder, such as `outputs/`; None if it has none."""
    rows = [(path.relative_to(folder).as_posix(), what, key) for path, what, key in _outputs(folder, DEPTH)]
    if not rows:
        return None
    first = folder / rows[0][0]
    values = [(name, f"{what}; key {key[:KEY]}" if key else what) for name, what, key in rows]
    return facts(f"{folder}: {len(rows)} outputs; `trm inspect {first}` shows one of them", values)


def _outputs(folder: Path, depth: int) -> Iterator[tuple[Path, str, str]]:
    """Path, description and content key of each output in `folder`."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (path / MANIFEST).is_file():
            manifest = read_manifest(path)
            yield path, description_of(manifest), manifest.get("key", "")
        elif (path / STUDY).is_file():
            yield path, "a study", ""
        elif depth > 1:
            yield from _outputs(path, depth - 1)


def note(text: str) -> RenderableType:
    """A line below a table."""
    return Text(f"\n{text}", "dim")
