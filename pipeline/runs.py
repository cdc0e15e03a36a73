"""`runs.tsv`: what each result took, and where it came from. `collect` writes it from the timing files; git keeps it.

A line stands for a stage's result under its content key. The first line of a key stays, so that to collect again
changes nothing.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from trm.config.params import Params
from trm.stages.content_keys import digest_of
from trm.stages.records import STAGES, producer
from trm.storage.artifacts import MANIFEST, read_manifest, timing_file
from trm.utils.errors import DataError

FILE = Path("runs.tsv")
OUTPUTS = Path("outputs")

# What changes no stage's time, or changes it in proportion (`_work`).
TIMELESS: dict[str, set[str]] = {
    "augment": {"num_aug", "seed"},
    "train": {
        *("epochs", "lr", "lr_min_ratio", "lr_warmup_steps", "beta1", "beta2", "weight_decay", "ema_rate", "seed"),
        *("puzzle_emb_lr", "puzzle_emb_weight_decay", "eval_interval", "log_interval", "checkpoint_interval"),
    },
    "evaluate": {"steps", "votes", "rollouts", "noise", "pass_at_k", "seed"},
    "report": {"published", "seed"},
}


@dataclass(frozen=True)
class Recorded:
    """A line: one result."""

    stage: str
    key: str
    started: str
    seconds: float
    steps: int | None
    """Optimizer steps of a training."""
    work: int
    """What the seconds are in proportion to: epochs, versions, or supervision steps times votes times rollouts."""
    like: str
    """Twelve digits that two results share if their settings differ only in `work` and in what takes no time."""
    hardware: str
    gpus: int
    commit: str
    """Where the result was computed from; empty: not known."""
    run: str
    """Kubeflow's run, or `local`; empty: not known."""
    image: str
    dvc_lock: str
    """SHA-256 of dvc.lock as it was when the result was collected."""
    wandb: str


@dataclass(frozen=True)
class Origin:
    """Where a result came from."""

    commit: str = ""
    run: str = ""
    image: str = ""
    dvc_lock: str = ""


def read_runs(path: Path = FILE) -> list[Recorded]:
    """The lines of the file, none where there is no file. Raises `DataError` for one that cannot be read."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        names = [field.name for field in fields(Recorded)]
        lines = list(rows)
    try:
        if lines[0] != names:
            raise ValueError
        return [_parsed(dict(zip(names, line, strict=True))) for line in lines[1:]]
    except (ValueError, IndexError):
        raise DataError(
            f"{path}: is not what `collect` wrote; resolve its conflict, or take it from git again"
        ) from None


def write_runs(recorded: Iterable[Recorded], path: Path = FILE) -> None:
    """Write the file anew."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow([field.name for field in fields(Recorded)])
        rows.writerows(["" if value is None else value for value in astuple(line)] for line in recorded)


def add_runs(origin: Origin, path: Path = FILE) -> None:
    """Add what lies in `outputs/` to the file, where its keys are not there yet."""
    known = read_runs(path)
    there = {(line.stage, line.key) for line in known}
    new = [replace(line, **asdict(origin)) for line in runs_here() if (line.stage, line.key) not in there]
    write_runs([*known, *new], path)


def runs_here(outputs: Path = OUTPUTS) -> list[Recorded]:
    """What the timing files in `outputs/` say of the outputs beside them."""
    sections: dict[str, Any] = {}
    keys: dict[str, str] = {}
    found = []
    for stage in STAGES:
        folder = outputs / stage.output
        if not (folder / MANIFEST).is_file():
            return found
        manifest = read_manifest(folder, stage.name)
        if manifest["inputs"] != {name: keys[producer(name).name] for name in stage.inputs}:
            return found  # made from other data than what lies here now
        keys[stage.name] = manifest["key"]
        sections |= manifest["params"]
        if timing := _timing(timing_file(folder), manifest["key"]):
            found.append(_recorded(stage.name, manifest, timing, sections))
    return found


def sections_of(params: Params) -> dict[str, Any]:
    """The sections of an experiment as manifests hold them."""
    names = dict.fromkeys(name for stage in STAGES for name in stage.sections)
    return {name: getattr(params, name).model_dump(mode="json") for name in names}


def expected(
    stage: str, key: str, sections: Mapping[str, Any], known: Sequence[Recorded]
) -> tuple[float, Recorded] | None:
    """The seconds that a stage is expected to take, and the result that tells: the same one, else the newest whose
    settings differ only in what its time is in proportion to.
    """
    same = [line for line in known if line.stage == stage and line.key == key]
    like = [line for line in known if line.stage == stage and line.like == _like(stage, sections)]
    for lines in (same, like):
        if lines:
            line = max(lines, key=lambda line: line.started)
            return line.seconds * _work(stage, sections) / line.work, line
    return None


def _parsed(line: dict[str, str]) -> Recorded:
    numbers = {"seconds": float(line["seconds"]), "work": int(line["work"]), "gpus": int(line["gpus"])}
    return Recorded(**{**line, **numbers, "steps": int(line["steps"]) if line["steps"] else None})  # pyright: ignore[reportArgumentType]


def _timing(path: Path, key: str) -> dict[str, Any] | None:
    try:
        timing = json.loads(path.read_text(encoding="utf-8"))
        return timing if timing["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _recorded(
    stage: str, manifest: Mapping[str, Any], timing: Mapping[str, Any], sections: Mapping[str, Any]
) -> Recorded:
    facts = manifest["facts"]
    processes, device = facts.get("processes", 1), facts.get("device", "cpu")
    gpus = processes if device == "cuda" else 0
    machine = f"{timing['cores']} cores {timing['machine']}"
    return Recorded(
        stage=stage,
        key=manifest["key"],
        started=timing["started"],
        # A training that was stopped went on: all its attempts count.
        seconds=max(timing["seconds"], timing.get("train_seconds", 0.0)),
        steps=facts.get("steps") if stage == "train" else None,
        work=_work(stage, sections),
        like=_like(stage, sections),
        hardware=f"{gpus} x cuda, {machine}" if gpus else f"{device}, {machine}" if device != "cpu" else machine,
        gpus=gpus,
        commit="",
        run="",
        image="",
        dvc_lock="",
        wandb=timing.get("wandb", ""),
    )


def _work(stage: str, sections: Mapping[str, Any]) -> int:
    if stage == "train":
        return sections["train"]["epochs"]
    if stage == "augment":
        return 1 + sections["augment"]["num_aug"]
    dials = ("steps", "votes", "rollouts")
    return math.prod(sections["evaluate"][dial] for dial in dials) if stage == "evaluate" else 1


def _like(stage: str, sections: Mapping[str, Any]) -> str:
    """A digest of the settings that decide how long one unit of work takes."""
    evaluated = ("data", "augment", "model", "evaluate")
    relevant = {"fetch": ("data",), "augment": ("data", "augment"), "train": ("data", "augment", "model", "train")}
    names = (relevant | {"evaluate": evaluated, "report": (*evaluated, "report")})[stage]
    kept = {
        name: {key: value for key, value in sections[name].items() if key not in TIMELESS.get(name, ())}
        for name in names
    }
    return digest_of(kept)[:12]
