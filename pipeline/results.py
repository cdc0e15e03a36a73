"""Results that lie in S3: one evaluation with all that it was made from."""

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trm import s3
from trm.config import Params
from trm.errors import DataError, UserError
from trm.stages import STAGES, digest_of, producer

if TYPE_CHECKING:
    import pyarrow as pa

EVALUATE = producer("evaluation")
METRICS = Path("metrics.json")
"""What git keeps of the scores that `collect` brought last, and the keys that they belong to."""


@dataclass(frozen=True)
class Result:
    """An evaluation below a root, and the manifests of the stages before it."""

    root: str
    key: str
    manifests: Mapping[str, Mapping[str, Any]]
    """Stage -> manifest."""
    metrics: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """Where the evaluation lies."""
        return f"{self.root}/{EVALUATE.name}/{self.key}"

    @property
    def keys(self) -> dict[str, str]:
        """Stage -> content key."""
        return {stage: manifest["key"] for stage, manifest in self.manifests.items()}

    @property
    def sections(self) -> dict[str, Any]:
        """All sections of its params."""
        return {name: section for manifest in self.manifests.values() for name, section in manifest["params"].items()}

    @property
    def data_set(self) -> str:
        """The name that all results share which were made from the same raw puzzles, byte for byte."""
        return data_set_name(self.manifests[STAGES[0].name])

    def predictions(self, split: str) -> "pa.Table | None":
        """The answers to the puzzles of `validation` or `test`; None where there are none."""
        import pyarrow.parquet as pq

        name = "validation.parquet" if split == "validation" else "predictions.parquet"
        if name not in self.manifests[EVALUATE.name]["files"]:
            return None
        return pq.read_table(io.BytesIO(s3.read_file(self.uri, name)))

    def curve(self, name: str) -> list[dict[str, float]]:
        """The lines of train.tsv or validation.tsv of its model, without what is empty in them; none where there is no
        such file.
        """
        if name not in self._model["files"]:
            return []
        text = s3.read_file(f"{self.root}/{self._model['stage']}/{self._model['key']}", name).decode()
        titles, *lines = (line.split("\t") for line in text.splitlines())
        return [{title: float(value) for title, value in zip(titles, line, strict=True) if value} for line in lines]

    @cached_property
    def _model(self) -> Mapping[str, Any]:
        return self.manifests[producer("model").name]


def load_result(root: str, key: str) -> Result:
    """The result of a content key of stage evaluate. Raises `UserError` where it is not there, `DataError` where it
    is broken or one of its metrics is no number.
    """
    manifests: dict[str, Mapping[str, Any]] = {}
    waiting = [(EVALUATE.name, key)]
    while waiting:
        stage, wanted = waiting.pop()
        uri = f"{root}/{stage}/{wanted}"
        manifest = s3.read_manifest(uri)
        if manifest is None:
            raise UserError(f"{uri}: there is no such result; name a run or a key whose result lies below {root}")
        manifests[stage] = manifest
        waiting += [(producer(name).name, input_key) for name, input_key in manifest["inputs"].items()]
    ordered = {stage.name: manifests[stage.name] for stage in STAGES if stage.name in manifests}
    return Result(root, key, ordered, _metrics(f"{root}/{EVALUATE.name}/{key}"))


def find_key(params: Params, name: str | None) -> str:
    """The content key that is meant by a key, its first digits (at least six), a run's id, or nothing: what was
    collected last. Raises `UserError` where there is none, or more than one.
    """
    if name is None:
        return collected()[0]
    if re.fullmatch("[0-9a-f]{64}", name):
        return name
    if re.fullmatch("[0-9a-f]{6,63}", name):
        below = f"{params.cluster.root}/{EVALUATE.name}"
        found = [key for key in s3.published_below(below) if key.startswith(name)]
        if len(found) == 1:
            return found[0]
        problem = f"{len(found)} results begin so; give more digits" if found else "there is no such result"
        raise UserError(f"{name}: {problem} (below {below})")
    from pipeline.kfp.client import Kubeflow
    from pipeline.kfp.definition import key_parameter

    key = Kubeflow(params.cluster).get(name).arguments.get(key_parameter(EVALUATE))
    if not isinstance(key, str):
        raise UserError(f"run {name} is no run of this pipeline; give an id that `submit` printed, or a content key")
    return key


def collected() -> tuple[str, dict[str, float | None]]:
    """Content key and metrics of what was collected last. Raises `UserError` where nothing was."""
    try:
        told = json.loads(METRICS.read_text(encoding="utf-8"))
        return str(told["keys"][EVALUATE.name]), dict(told["metrics"])
    except FileNotFoundError:
        raise UserError(f"{METRICS}: is not here; name a result, or run `python -m pipeline collect` first") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{METRICS}: is not what `collect` wrote; take it from git again, or collect again") from None


def data_set_name(manifest: Mapping[str, Any]) -> str:
    """The name of the raw puzzles of a manifest of the first stage: their kind and a digest of their files."""
    digests = {name: facts["sha256"] for name, facts in manifest["files"].items()}
    return f"{manifest['params']['data']['kind']}-{digest_of(digests)[:12]}"


def _metrics(uri: str) -> dict[str, Any]:
    try:
        metrics = json.loads(s3.read_file(uri, "metrics.json"))
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
    except (ValueError, AttributeError):
        raise DataError(f"{uri}: its metrics.json is not JSON; delete this address and evaluate again") from None
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DataError(
                f"{uri}: its {name} is {value}, so it is compared with nothing and promoted nowhere; look into the "
                "training, then delete this address and evaluate again"
            )
    return metrics
