"""What a run of the experiment would do, before anything runs: which stages, why, and what it costs.

Offline: the workspace's files alone are read. `dvc repro` decides by dvc.lock and its caches, the cluster by whether an
artifact lies under the content key. What lies in S3 is known from `runs.tsv`, where `collect` wrote what it brought
from there; only `online` asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import dvc
from pipeline.dvc import Change, Repro, unlike
from pipeline.runs import OUTPUTS, Recorded, expected, read_runs, runs_here, sections_of
from trm import mirror
from trm.artifacts import MANIFEST, read_manifest
from trm.cluster import ClusterParams, Resources
from trm.config import Params
from trm.errors import UserError
from trm.stages import STAGES, Stage, requests


@dataclass(frozen=True)
class StagePlan:
    """What would happen to a stage."""

    stage: str
    key: str
    here: str
    """What `dvc repro` does: unchanged, restore, pull or run."""
    cluster: str
    """there: the result lies in S3; or run."""
    because: tuple[Change, ...]
    """What differs from the result that is there, by which it runs; empty where it does not."""
    lies: tuple[str, ...]
    """Where the result lies already."""
    seconds: float | None
    """How long it is expected to take where it runs; None: nothing like it is recorded."""
    like: Recorded | None
    """The result that says so."""
    gpu_hours: float | None
    """Of the cluster; None: nobody knows."""

    @property
    def runs(self) -> bool:
        """Whether it is computed anywhere."""
        return self.here == "run" or self.cluster == "run"


@dataclass(frozen=True)
class Plan:
    """What would happen to the experiment."""

    kind: str
    stages: tuple[StagePlan, ...]
    online: bool
    """Whether S3 was asked."""
    max_gpu_hours: float | None

    @property
    def here(self) -> list[str]:
        """The stages that `dvc repro` runs."""
        return [stage.stage for stage in self.stages if stage.here == "run"]

    @property
    def cluster(self) -> list[str]:
        """The stages that the cluster runs."""
        return [stage.stage for stage in self.stages if stage.cluster == "run"]

    @property
    def seconds(self) -> float | None:
        """Of all that runs; None where a part is not known."""
        return _sum([stage.seconds for stage in self.stages if stage.runs])

    @property
    def gpu_hours(self) -> float | None:
        """Of all that the cluster runs; None where a part is not known."""
        return _sum([stage.gpu_hours for stage in self.stages if stage.cluster == "run"])

    @property
    def needs_approval(self) -> bool:
        """Whether somebody has to agree first: more than `cluster.max_gpu_hours`, or nobody knows how much."""
        return self.max_gpu_hours is not None and (self.gpu_hours is None or self.gpu_hours > self.max_gpu_hours)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        totals = {name: getattr(self, name) for name in ("here", "cluster", "seconds", "gpu_hours", "needs_approval")}
        return {
            **asdict(self),
            **totals,
            "stages": [{**asdict(stage), "runs": stage.runs} for stage in self.stages],
        } | {"runs": {"here": self.here, "cluster": self.cluster}}


def make_plan(params: Params, file: Path, online: bool = False) -> Plan:
    """The plan of the experiment `params`, read from `file`. Raises `UserError` where a file of it is not readable."""
    wanted, repro = requests(params), dvc.repro(file)
    sections, recorded = sections_of(params), read_runs()
    known = [*recorded, *runs_here()]
    stages: list[StagePlan] = []
    changed: set[str] = set()
    for stage in STAGES:
        request, here = wanted[stage.name], repro[stage.name]
        lies = _lies(stage, request["key"], here, recorded, params.cluster.root, online)
        there = any(place.startswith("s3://") for place in lies)
        runs = here.does == "run" or not there
        because = _because(stage, request, here, there, changed) if runs else ()
        time = expected(stage.name, request["key"], sections, known) if runs else None
        if any(change.what != "new" for change in because):
            changed.add(stage.output)
        stages.append(
            StagePlan(
                stage=stage.name,
                key=request["key"],
                here=here.does,
                cluster="there" if there else "run",
                because=because,
                lies=lies,
                seconds=time[0] if time else None,
                like=time[1] if time else None,
                gpu_hours=0.0 if there else _gpu_hours(stage, time, params.cluster),
            )
        )
    return Plan(params.data.kind, tuple(stages), online, params.cluster.max_gpu_hours)


def _lies(
    stage: Stage, key: str, here: Repro, recorded: Sequence[Recorded], root: str, online: bool
) -> tuple[str, ...]:
    """Where the result is known to lie, under its content key."""
    folder, uri = OUTPUTS / stage.output, f"{root}/{stage.name}/{key}"
    places = []
    if _key_in(folder) == key:
        places.append(str(folder))
    if here.cached and here.does in ("unchanged", "restore"):
        places.append("DVC's run cache" if here.does == "restore" else "DVC's cache")
    if _key_in(mirror.folder_of(uri)) == key:
        places.append("$TRM_CACHE_DIR")
    if online:
        from trm import s3

        in_s3 = s3.read_manifest(uri) is not None
    else:
        in_s3 = any((line.stage, line.key) == (stage.name, key) for line in recorded)
    return (*places, uri) if in_s3 else tuple(places)


def _key_in(folder: Path) -> str | None:
    try:
        return read_manifest(folder)["key"] if (folder / MANIFEST).is_file() else None
    except (UserError, KeyError):
        return None


def _because(
    stage: Stage, request: Mapping[str, Any], here: Repro, there: bool, changed: set[str]
) -> tuple[Change, ...]:
    """Why it runs: what differs from dvc.lock; what else is in the key; or that no result of it was ever collected."""
    changes = [change for change in here.because if change.what not in ("input", "new")]
    if not there and not changes:
        folder = OUTPUTS / stage.output
        was = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        # Libraries and files from elsewhere are in the key, and DVC does not know of them.
        for part, what in (("versions", "version"), ("source", "file"), ("params", "param")):
            if part in was:
                changes += [Change(what, *change) for change in unlike(was[part], request[part])]
    changes += [Change("input", name) for name in stage.inputs if name in changed]
    if not changes and here.does == "run":
        changes = [Change("new", stage.name, now="dvc.lock")]
    return tuple(changes) or (Change("new", stage.name, now="runs.tsv"),)


def _gpu_hours(stage: Stage, time: tuple[float, Recorded] | None, cluster: ClusterParams) -> float | None:
    """What it takes of the GPUs that section `cluster` asks for, as far as GPUs have been recorded."""
    if not cluster.stages.get(stage.name, Resources()).gpus:
        return 0.0
    if time is None or not time[1].gpus:
        return None
    return time[0] * time[1].gpus / 3600


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)
