"""Plan of an experiment: which stages run locally and on the cluster, why, and their expected duration.

A plan reads the workspace only, unless `online` is set. `dvc repro` decides by dvc.lock and DVC's caches, the cluster
by the artifacts in S3. Offline, the artifacts in S3 are those in runs.tsv, which `collect` writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import dvc
from pipeline.dvc import Change, StageStatus
from pipeline.runs import OUTPUTS, RunRecord, estimate, local_records, read_runs, stage_sections
from trm.config.base import differences
from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.config.pods import Resources
from trm.stages.content_keys import requests
from trm.stages.records import Stage, enabled_stages
from trm.storage import artifact_cache, s3
from trm.storage.artifacts import MANIFEST, read_manifest
from trm.utils.errors import UserError
from trm.utils.paths import is_s3_uri


@dataclass(frozen=True)
class StagePlan:
    """Plan of one stage."""

    stage: str
    key: str
    local: str
    """Action of `dvc repro`: unchanged, restore, pull or run."""
    cluster: str
    """exists: the artifact is in S3; or run."""
    reasons: tuple[Change, ...]
    """Why the stage runs: differences from the existing result. Empty for a stage that does not run."""
    locations: tuple[str, ...]
    """Where the result exists."""
    seconds: float | None
    """Expected duration; None if no record matches."""
    estimated_from: RunRecord | None
    """Record that the expected duration is based on."""
    gpu_hours: float | None
    """Expected GPU hours on the cluster; None if unknown."""

    @property
    def runs(self) -> bool:
        """Whether the stage runs locally or on the cluster."""
        return self.local == "run" or self.cluster == "run"


@dataclass(frozen=True)
class Plan:
    """Plan of an experiment."""

    data: str
    """Kind of data."""
    stages: tuple[StagePlan, ...]
    online: bool
    """Whether S3 was queried."""
    max_gpu_hours: float | None

    @property
    def local(self) -> list[str]:
        """Stages that `dvc repro` runs."""
        return [stage.stage for stage in self.stages if stage.local == "run"]

    @property
    def cluster(self) -> list[str]:
        """Stages that the cluster runs."""
        return [stage.stage for stage in self.stages if stage.cluster == "run"]

    @property
    def seconds(self) -> float | None:
        """Expected duration of all stages that run; None if one is unknown."""
        return _sum([stage.seconds for stage in self.stages if stage.runs])

    @property
    def gpu_hours(self) -> float | None:
        """Expected GPU hours on the cluster; None if one stage's are unknown."""
        return _sum([stage.gpu_hours for stage in self.stages if stage.cluster == "run"])

    @property
    def needs_approval(self) -> bool:
        """Whether the GPU hours exceed `cluster.max_gpu_hours`, or are unknown while a limit is set."""
        return self.max_gpu_hours is not None and (self.gpu_hours is None or self.gpu_hours > self.max_gpu_hours)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        totals = {name: getattr(self, name) for name in ("seconds", "gpu_hours", "needs_approval")}
        return {
            **asdict(self),
            **totals,
            "stages": [{**asdict(stage), "runs": stage.runs} for stage in self.stages],
            "runs": {"local": self.local, "cluster": self.cluster},
        }


def make_plan(params: Params, params_file: Path, online: bool = False) -> Plan:
    """Return the plan of the experiment `params`, which was loaded from `params_file`.

    Raises `UserError` for a file of the workspace that is not readable.
    """
    stage_requests, statuses = requests(params), dvc.stage_status(params_file)
    sections, recorded = stage_sections(params), read_runs()
    records = [*recorded, *local_records()]
    stages: list[StagePlan] = []
    changed: set[str] = set()
    for stage in enabled_stages(params):
        request, status = stage_requests[stage.name], statuses[stage.name]
        locations = _locations(stage, request["key"], status, recorded, params.cluster.artifact_root, online)
        in_s3 = any(is_s3_uri(location) for location in locations)
        runs = status.action == "run" or not in_s3
        reasons = _reasons(stage, request, status, in_s3, changed) if runs else ()
        expected = estimate(stage, request["key"], sections, records) if runs else None
        if any(reason.kind != "unrecorded" for reason in reasons):
            changed.add(stage.output)
        stages.append(
            StagePlan(
                stage=stage.name,
                key=request["key"],
                local=status.action,
                cluster="exists" if in_s3 else "run",
                reasons=reasons,
                locations=locations,
                seconds=expected[0] if expected else None,
                estimated_from=expected[1] if expected else None,
                gpu_hours=0.0 if in_s3 else _gpu_hours(stage, expected, params.cluster),
            )
        )
    return Plan(params.data.name, tuple(stages), online, params.cluster.max_gpu_hours)


def _locations(
    stage: Stage, key: str, status: StageStatus, recorded: Sequence[RunRecord], root: str, online: bool
) -> tuple[str, ...]:
    """Return the known locations of the result with this content key; the last one may be its URI in S3."""
    folder, uri = OUTPUTS / stage.output, s3.artifact_uri(root, stage.name, key)
    locations = []
    if _key_in(folder) == key:
        locations.append(str(folder))
    if status.cached and status.action in ("unchanged", "restore"):
        locations.append("DVC run cache" if status.action == "restore" else "DVC cache")
    if _key_in(artifact_cache.folder_of(uri)) == key:
        locations.append("$TRM_CACHE_DIR")
    if online:
        in_s3 = s3.read_manifest(uri) is not None
    else:
        in_s3 = any((record.stage, record.key) == (stage.name, key) for record in recorded)
    return (*locations, uri) if in_s3 else tuple(locations)


def _key_in(folder: Path) -> str | None:
    try:
        return read_manifest(folder)["key"] if (folder / MANIFEST).is_file() else None
    except (UserError, KeyError):
        return None


def _reasons(
    stage: Stage, request: Mapping[str, Any], status: StageStatus, in_s3: bool, changed: set[str]
) -> tuple[Change, ...]:
    """Return why the stage runs: differences from dvc.lock, from the local manifest, or a missing record."""
    reasons = [change for change in status.changes if change.kind not in ("input", "unrecorded")]
    if not in_s3 and not reasons:
        folder = OUTPUTS / stage.output
        manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        # The content key covers library versions and downloaded files, which DVC does not track.
        for part, kind in (("versions", "version"), ("source", "file"), ("params", "param")):
            if part in manifest:
                reasons += [Change(kind, *difference) for difference in differences(manifest[part], request[part])]
    reasons += [Change("input", name) for name in stage.inputs if name in changed]
    if not reasons and status.action == "run":
        reasons = [Change("unrecorded", stage.name, new="dvc.lock")]
    return tuple(reasons) or (Change("unrecorded", stage.name, new="runs.tsv"),)


def _gpu_hours(stage: Stage, expected: tuple[float, RunRecord] | None, cluster: ClusterParams) -> float | None:
    """Return the expected GPU hours of a stage; None without a record of a run on GPUs."""
    if not cluster.resources.get(stage.name, Resources()).gpus:
        return 0.0
    if expected is None or not expected[1].gpus:
        return None
    return expected[0] * expected[1].gpus / 3600


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)
