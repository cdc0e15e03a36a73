"""The model card of a repository on the Hugging Face Hub: README.md with scores, data, settings and lineage.

https://huggingface.co/docs/hub/model-cards
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trm.storage.artifacts import read_manifest, verified_manifest
from trm.training.checkpoint import read_settings
from trm.utils.errors import UserError

SCORES = (
    "exact_accuracy",
    "cell_accuracy",
    "valid",
    "valid_voted",
    "pass@1",
    "pass@2",
    "coverage",
    "answered_accuracy",
)
"""Metrics of the score table, as far as they are defined."""
UNKNOWN_DATA = "The dataset of the training was not given; its content key is below."


def model_card(repo: str, model: Path, evaluation: Path | None, dataset: Path | None, licence: str, notes: str) -> str:
    """The text of README.md for the model folder `model`.

    evaluation: output of stage evaluate of this model, for the score table. dataset: output of stage augment of its
    training, for the data settings. notes: text about the data and its licence. Raises `DataError` for a damaged
    folder, `UserError` if the evaluation or the dataset belongs to another model.
    """
    header, manifest = read_settings(model), verified_manifest(model, "train")
    key, meta = manifest["key"], header.meta
    parts = [
        _front_matter(licence, meta.name),
        f"# {repo.partition('/')[2]}",
        f"A Tiny Recursive Model (`{header.model.arch}`, {manifest['facts'].get('parameters', 0):,} parameters) for "
        f"`{meta.name}` puzzles of {meta.height} x {meta.width} cells.",
        _block("python", f'import trm\n\nmodel, meta = trm.load_checkpoint("hf://{repo}")'),
        _block("sh", f"trm solve PUZZLE --model hf://{repo}"),
        "## Scores",
        _scores(key, evaluation),
        "## Data",
        *([notes] if notes else []),
        _data(manifest, dataset),
        "## Training",
        "`trm run` with these sections in params.yaml trains the same model:",
        _block("yaml", _yaml(manifest["params"])),
        "## Lineage",
        _table(
            ("Artifact", "Content key"),
            [("model", f"`{key}`"), *((name, f"`{value}`") for name, value in manifest["inputs"].items())],
        ),
        _table(("Package", "Version"), [(name, str(value)) for name, value in manifest.get("versions", {}).items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: str, dataset: str) -> str:
    return f"---\n{_yaml({'library_name': 'trm', 'license': licence, 'tags': ['trm', 'puzzles', dataset]})}---"


def _scores(key: str, evaluation: Path | None) -> str:
    if evaluation is None:
        return "Not evaluated."
    manifest = verified_manifest(evaluation, "evaluate")
    if manifest["inputs"].get("model") != key:
        raise UserError(f"{evaluation}: is the evaluation of another model; run `trm evaluate` for this one")
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    rows = []
    for name in SCORES:
        if metrics.get(name) is not None:
            bounds = metrics["interval_95"].get(name)
            interval = f"{100 * bounds[0]:.1f} - {100 * bounds[1]:.1f}" if bounds else ""
            rows.append((f"`{name}`", f"{100 * metrics[name]:.1f} %", interval))
    settings = ", ".join(f"{name}: {value}" for name, value in sorted(manifest["params"]["evaluate"].items()))
    table = _table(("Metric", "Value", "95 % interval (%)"), rows)
    return f"{metrics['puzzles']} test puzzles, with these settings: {settings}.\n\n{table}"


def _data(manifest: Mapping[str, Any], dataset: Path | None) -> str:
    if dataset is None:
        return UNKNOWN_DATA
    of_dataset = read_manifest(dataset, "augment")
    if of_dataset["key"] != manifest["inputs"].get("dataset"):
        raise UserError(f"{dataset}: is not the dataset of the training of this model; give the right one, or none")
    return _block("yaml", _yaml(_without_folders(of_dataset["params"])))


def _without_folders(value: Any) -> Any:  # noqa: ANN401 - settings of any type
    """Settings in which a path is the name of its file: folders tell of the machine."""
    if isinstance(value, Mapping):
        is_path = value.get("type") == "path"
        return {
            name: Path(each).name if is_path and isinstance(each, str) and "/" in each else _without_folders(each)
            for name, each in value.items()
        }
    return value


def _yaml(value: Mapping[str, Any]) -> str:
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(dict(value), text)
    return text.getvalue()


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (titles, ("---",) * len(titles), *rows)]
    return "\n".join(lines)
