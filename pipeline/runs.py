"""`runs.tsv`: duration, hardware and provenance of each result. `collect` appends to it, git tracks it.

A row describes the result of one stage under its content key. The first row of a key is kept: collecting a result again
does not change the file.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from trm.config.params import Params
from trm.stages.content_keys import digest_of
from trm.stages.records import STAGES, Stage, producer
from trm.storage.artifacts import MANIFEST, read_manifest, timing_file
from trm.utils.errors import DataError

FILE = Path("runs.tsv")
OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class RunRecord:
    """A row of runs.tsv: the result of one stage."""

    stage: str
    key: str
    started: str
    """ISO 8601."""
    seconds: float
    """Duration, including interrupted attempts of a training."""
    steps: int | None
    """Optimizer steps; None for stages without a training loop."""
    work: int
    """Amount of work to which the duration is proportional (`Stage.work`)."""
    settings: str
    """Digest of the settings that determine the duration of one unit of work, 12 hex digits."""
    hardware: str
    gpus: int
    commit: str
    """Commit that was submitted or collected; "" if unknown."""
    run: str
    """Id of the pipeline run, or `local`; "" if unknown."""
    image: str
    dvc_lock: str
    """SHA-256 of dvc.lock after the result was collected."""
    wandb: str


@dataclass(frozen=True)
class Provenance:
    """Source of a result: commit, pipeline run, image, and SHA-256 of dvc.lock. Empty values are unknown."""

    commit: str = ""
    run: str = ""
    image: str = ""
    dvc_lock: str = ""


def read_runs(path: Path = FILE) -> list[RunRecord]:
    """Return the rows of the file; [] if it does not exist. Raises `DataError` for a file that is not readable."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    names = [field.name for field in fields(RunRecord)]
    try:
        if rows[0] != names:
            raise ValueError
        return [_parse(dict(zip(names, row, strict=True))) for row in rows[1:]]
    except (ValueError, IndexError):
        raise DataError(
            f"{path}: not written by `collect`; resolve the merge conflict, or restore it from git"
        ) from None


def write_runs(records: Iterable[RunRecord], path: Path = FILE) -> None:
    """Write the file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow([field.name for field in fields(RunRecord)])
        rows.writerows(["" if value is None else value for value in astuple(record)] for record in records)


def add_records(provenance: Provenance, path: Path = FILE) -> None:
    """Append the results in `outputs/` to the file, except those whose content keys it contains."""
    known = read_runs(path)
    keys = {(record.stage, record.key) for record in known}
    new = [
        replace(record, **asdict(provenance)) for record in local_records() if (record.stage, record.key) not in keys
    ]
    write_runs([*known, *new], path)


def local_records(outputs: Path = OUTPUTS) -> list[RunRecord]:
    """Return records of the results in `outputs`, up to the first stage that was computed from other inputs."""
    sections: dict[str, Any] = {}
    keys: dict[str, str] = {}
    records = []
    for stage in STAGES:
        folder = outputs / stage.output
        if not (folder / MANIFEST).is_file():
            return records
        manifest = read_manifest(folder, stage.name)
        if manifest["inputs"] != {name: keys[producer(name).name] for name in stage.inputs}:
            return records
        keys[stage.name] = manifest["key"]
        sections |= manifest["params"]
        if timing := _read_timing(timing_file(folder), manifest["key"]):
            records.append(_record(stage, manifest, timing, sections))
    return records


def stage_sections(params: Params) -> dict[str, Any]:
    """Return the sections that the stages read, as manifests contain them."""
    names = dict.fromkeys(name for stage in STAGES for name in stage.sections)
    return {name: getattr(params, name).model_dump(mode="json") for name in names}


def estimate(
    stage: Stage, key: str, sections: Mapping[str, Any], records: Sequence[RunRecord]
) -> tuple[float, RunRecord] | None:
    """Return the expected duration of a stage in seconds, and the record that it is based on.

    The record is the newest one with the same content key, else the newest one whose settings differ only in the amount
    of work and in settings that do not affect the duration. None if no record matches.
    """
    own = [record for record in records if record.stage == stage.name]
    same = [record for record in own if record.key == key]
    similar = [record for record in own if record.settings == _settings_digest(stage, sections)]
    for matches in (same, similar):
        if matches:
            record = max(matches, key=lambda record: record.started)
            return record.seconds * stage.work(sections) / record.work, record
    return None


def _parse(row: dict[str, str]) -> RunRecord:
    numbers = {"seconds": float(row["seconds"]), "work": int(row["work"]), "gpus": int(row["gpus"])}
    return RunRecord(**{**row, **numbers, "steps": int(row["steps"]) if row["steps"] else None})  # pyright: ignore[reportArgumentType]


def _read_timing(path: Path, key: str) -> dict[str, Any] | None:
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
        return timing if timing["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(
    stage: Stage, manifest: Mapping[str, Any], timing: Mapping[str, Any], sections: Mapping[str, Any]
) -> RunRecord:
    facts = manifest["facts"]
    processes, device = facts.get("processes", 1), facts.get("device", "cpu")
    gpus = processes if device == "cuda" else 0
    machine = f"{timing['cores']} cores {timing['machine']}"
    return RunRecord(
        stage=stage.name,
        key=manifest["key"],
        started=timing["started"],
        # `seconds` covers the last attempt, `train_seconds` all attempts of an interrupted training.
        seconds=max(timing["seconds"], timing.get("train_seconds", 0.0)),
        steps=facts.get("steps"),
        work=stage.work(sections),
        settings=_settings_digest(stage, sections),
        hardware=f"{gpus} x cuda, {machine}" if gpus else f"{device}, {machine}" if device != "cpu" else machine,
        gpus=gpus,
        commit="",
        run="",
        image="",
        dvc_lock="",
        wandb=timing.get("wandb", ""),
    )


def _settings_digest(stage: Stage, sections: Mapping[str, Any]) -> str:
    """Return a digest of the settings that determine the duration of one unit of the stage's work."""
    ignored = {name for each in STAGES for name in each.duration_invariant}
    relevant = {
        section: {key: value for key, value in sections[section].items() if f"{section}.{key}" not in ignored}
        for section in stage.duration_sections or stage.sections
    }
    return digest_of(relevant)[:12]
