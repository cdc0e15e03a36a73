"""Results in S3: an evaluation and the manifests of the stages that it depends on."""

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm.config.params import Params
from trm.stages.content_keys import digest_of
from trm.stages.records import STAGES, producer
from trm.storage import s3
from trm.utils.errors import DataError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

EVALUATE = producer("evaluation")
METRICS_FILE = Path("metrics.json")
"""Tracked file with the metrics and content keys of the result that was collected last."""


@dataclass(frozen=True)
class Result:
    """An evaluation in S3, and the manifests of all stages that it depends on."""

    artifact_root: str
    key: str
    """Content key of stage evaluate."""
    manifests: Mapping[str, Mapping[str, Any]]
    """Stage name -> manifest, in the order of the pipeline."""
    metrics: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """URI of the evaluation."""
        return s3.artifact_uri(self.artifact_root, EVALUATE.name, self.key)

    @property
    def keys(self) -> dict[str, str]:
        """Stage name -> content key."""
        return {stage: manifest["key"] for stage, manifest in self.manifests.items()}

    @property
    def sections(self) -> dict[str, Any]:
        """Section name -> params, of all stages."""
        return {name: section for manifest in self.manifests.values() for name, section in manifest["params"].items()}

    @property
    def dataset(self) -> str:
        """Name of the raw data. Results with equal names were computed from the same bytes."""
        return dataset_name(self.manifests[STAGES[0].name])

    def predictions(self, split: str) -> "pa.Table | None":
        """Return the predictions for split `validation` or `test`; None if the evaluation has none."""
        import pyarrow.parquet as pq

        name = "validation.parquet" if split == "validation" else "predictions.parquet"
        if name not in self.manifests[EVALUATE.name]["files"]:
            return None
        return pq.read_table(io.BytesIO(s3.read_file(self.uri, name)))

    def training_log(self, name: str) -> list[dict[str, float]]:
        """Return the rows of the model's train.tsv or validation.tsv without empty cells; [] without such a file."""
        if name not in self._model["files"]:
            return []
        uri = s3.artifact_uri(self.artifact_root, self._model["stage"], self._model["key"])
        columns, *rows = (line.split("\t") for line in s3.read_file(uri, name).decode().splitlines())
        return [{column: float(value) for column, value in zip(columns, row, strict=True) if value} for row in rows]

    @cached_property
    def _model(self) -> Mapping[str, Any]:
        return self.manifests[producer("model").name]


def load_result(artifact_root: str, key: str) -> Result:
    """Return the result with this content key of stage evaluate.

    Raises `UserError` if an artifact does not exist, `DataError` if one is corrupt or a metric is not finite.
    """
    manifests: dict[str, Mapping[str, Any]] = {}
    pending = [(EVALUATE.name, key)]
    while pending:
        stage, stage_key = pending.pop()
        uri = s3.artifact_uri(artifact_root, stage, stage_key)
        manifest = s3.read_manifest(uri)
        if manifest is None:
            raise UserError(f"{uri}: no such result; pass a run id or the content key of a result in {artifact_root}")
        manifests[stage] = manifest
        pending += [(producer(name).name, input_key) for name, input_key in manifest["inputs"].items()]
    ordered = {stage.name: manifests[stage.name] for stage in STAGES if stage.name in manifests}
    return Result(artifact_root, key, ordered, _read_metrics(s3.artifact_uri(artifact_root, EVALUATE.name, key)))


def resolve_key(params: Params, name: str | None) -> str:
    """Return the content key of stage evaluate for a result's name.

    Raises `UserError` if no result, or more than one, has this name.

    Args:
        params: Params with the cluster where the results are.
        name: A content key, its first digits (six or more), or a run id. None: the result that was collected last.
    """
    if name is None:
        return read_collected()[0]
    if re.fullmatch("[0-9a-f]{64}", name):
        return name
    if re.fullmatch("[0-9a-f]{6,63}", name):
        folder = f"{params.cluster.artifact_root}/{EVALUATE.name}"
        matches = [key for key in s3.published_names(folder) if key.startswith(name)]
        if len(matches) == 1:
            return matches[0]
        problem = f"ambiguous: {len(matches)} results; pass more digits" if matches else "no such result"
        raise UserError(f"{name}: {problem} (in {folder})")
    from components.parameters import key_parameter
    from pipeline.kfp.client import KfpClient

    key = KfpClient(params.cluster).get(name).arguments.get(key_parameter(EVALUATE))
    if not re.fullmatch("[0-9a-f]{64}", str(key)):
        raise UserError(f"run {name} is not a run of this pipeline; pass an id that `submit` printed, or a content key")
    return str(key)


def read_collected(file: Path = METRICS_FILE) -> tuple[str, dict[str, float | None]]:
    """Return content key and metrics of the result that was collected last.

    Raises `UserError` if none was collected, `DataError` for a file that is not readable.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        key, metrics = str(values["keys"][EVALUATE.name]), dict(values["metrics"])
        accuracy = metrics.get("exact_accuracy")
        if not re.fullmatch("[0-9a-f]{64}", key) or not isinstance(accuracy, int | float | None):
            raise ValueError
        return key, metrics
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; pass a result, or run `python -m pipeline collect` first") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{file}: not written by `collect`; restore it from git, or collect again") from None


def dataset_name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the raw data in a manifest of the first stage: data kind and a digest of the files."""
    digests = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    return f"{manifest['params']['data']['name']}-{digest_of(digests)[:12]}"


def format_percent(fraction: float | None) -> str:
    """Return a fraction as percent with one digit; "none" for None."""
    return "none" if fraction is None else f"{100 * fraction:.1f} %"


def _read_metrics(uri: str) -> dict[str, Any]:
    try:
        metrics = json.loads(s3.read_file(uri, "metrics.json"))
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    except (ValueError, AttributeError):
        raise DataError(f"{uri}: metrics.json is not valid JSON; delete this artifact and evaluate again") from None
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DataError(
                f"{uri}: {name} is {value}; results with such metrics are neither compared nor promoted: check the "
                "training, delete this artifact and evaluate again"
            )
    return metrics
