"""DVC commands, and a prediction of what `dvc repro` does with each stage.

The prediction is our own code because `dvc status --json` does not answer the question: it reports neither the old and
new values of changed params nor results that the run cache restores, compares stages with the outputs on disk instead
of those that an earlier stage is about to write, and takes several seconds, with a lock on the repository. Its test
compares the prediction with `dvc repro --dry`.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from trm.config.base import differences
from trm.utils.errors import InternalError, UserError

DVC_YAML, LOCK = Path("dvc.yaml"), Path("dvc.lock")
IGNORED = "__pycache__"
"""Folder name in .dvcignore."""


@dataclass(frozen=True)
class Change:
    """A difference between a stage and its last recorded result."""

    kind: str
    """param, module, file, version, input, or unrecorded: there is no record to compare with."""
    name: str
    old: Any = None
    new: Any = None


@dataclass(frozen=True)
class StageStatus:
    """What `dvc repro` does with a stage."""

    action: str
    """unchanged; restore: from DVC's run cache; pull: unchanged, but its output is not on this disk; or run."""
    changes: tuple[Change, ...]
    """Differences from dvc.lock."""
    cached: bool
    """Whether the output is in DVC's cache."""


def dvc(*arguments: str) -> str:
    """Run DVC and return its stdout.

    Raises `InternalError` with DVC's message if it fails or is not installed, and `UserError` for a damaged dvc.lock.
    """
    read_lock()
    program = shutil.which("dvc", path=str(Path(sys.executable).parent)) or shutil.which("dvc")
    if program is None:
        raise InternalError("dvc is not installed; run `make install`")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split())
        raise InternalError(f"dvc {arguments[0]} failed ({message or 'the outputs differ from dvc.lock'})")
    return done.stdout


def check_workspace() -> None:
    """Raise `UserError` unless the working directory contains dvc.yaml."""
    if not DVC_YAML.is_file():
        raise UserError("dvc.yaml: no such file; run the command in the folder of params.yaml and dvc.yaml")


def stage_status(params_file: Path) -> dict[str, StageStatus]:
    """Return what `dvc repro` does with each stage of dvc.yaml. Raises `UserError` for files that are not readable."""
    check_workspace()
    stages, values = _load_yaml(DVC_YAML)["stages"], _load_yaml(params_file)
    locked = read_lock()
    cache, new_outs, statuses = _cache_folder(), dict[str, str | None](), dict[str, StageStatus]()
    for name, stage in _enabled(stages, values):
        request = {
            "cmd": stage["cmd"],
            "deps": {path: new_outs[path] if path in new_outs else _md5(Path(path)) for path in stage["deps"]},
            "params": {section: values.get(section) for section in stage["params"]},
        }
        entry = locked.get(stage.get("name", name))
        changes = () if entry is None else tuple(_changes(_request(entry), request, new_outs))
        if entry is None:
            changes = (Change("unrecorded", name),)
        if changes:
            entry = _run_cache_entry(cache / "runs", request)
        outs = {} if entry is None else {out["path"]: out["md5"] for out in entry["outs"]}
        cached = bool(outs) and all(_object(cache, md5).is_file() for md5 in outs.values())
        if changes and not cached:
            outs = {}
        new_outs |= {path: outs.get(path) for path in stage["outs"]}
        on_disk = all(Path(path).exists() for path in stage["outs"])
        if_changed = "restore" if cached else "run"
        if_unchanged = "unchanged" if on_disk or cached else "pull"
        statuses[name] = StageStatus(if_changed if changes else if_unchanged, changes, cached)
    return statuses


def _enabled(stages: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the stages of dvc.yaml by their names.

    An optional stage is repeated for each item of a list, which has at most one (`Stage.enabled_by`). It has another
    `name` in dvc.lock.
    """
    for name, stage in stages.items():
        if "foreach" not in stage:
            yield name, stage
            continue
        section, key = stage["foreach"].strip("${}").split(".")
        for item in (values.get(section) or {}).get(key, ()):
            yield name, {**stage["do"], "name": f"{name}@{item}"}


def read_lock() -> dict[str, Any]:
    """Return the stages in dvc.lock; {} without the file. Raises `UserError` for a file that is empty or cut."""
    if not LOCK.is_file():
        return {}
    try:
        stages = dict(_load_yaml(LOCK)["stages"])
        for entry in stages.values():
            _request(entry)
            if not all(out["path"] and out["md5"] for out in entry["outs"]):
                raise ValueError
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{LOCK}: empty, cut or not a lock file of DVC, as after a kill of dvc; restore it with "
            f"`git checkout {LOCK}`, or delete it and run `dvc repro`, which takes finished results from its cache"
        ) from None
    return stages


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, YAMLError, TypeError, ValueError):
        raise UserError(f"{path}: not readable as YAML; correct it, or restore it from git") from None


def _request(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return command, inputs and params of an entry of dvc.lock or of the run cache."""
    params = entry.get("params", {})
    return {
        "cmd": entry["cmd"],
        "deps": {dep["path"]: dep.get("md5") for dep in entry.get("deps", ())},
        "params": params.get("params.yaml", {}),
    }


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], outs: Mapping[str, Any]) -> Iterator[Change]:
    for name, before, after in differences(old["params"], new["params"]):
        yield Change("param", name, before, after)
    for path in dict.fromkeys((*new["deps"], *old["deps"])):
        if old["deps"].get(path) != new["deps"].get(path) or path not in new["deps"]:
            yield Change("input" if path in outs else "module", path)
    if old["cmd"] != new["cmd"]:
        yield Change("file", str(DVC_YAML))


def _md5(path: Path) -> str | None:
    """Return the digest that DVC records: of a file's bytes, or of the list of a folder's files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file() and IGNORED not in file.parts)
    entries = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: str(entry["relpath"]))
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _cache_folder() -> Path:
    config = ConfigParser(interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"])
    return Path(".dvc", config.get("cache", "dir", fallback="cache"))


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _run_cache_entry(runs: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of DVC's run cache for this request; None if there is none."""
    digests = [md5 for md5 in request["deps"].values() if md5]
    if len(digests) < len(request["deps"]) or not runs.is_dir():
        return None
    for path in runs.glob("*/*/*"):
        text = path.read_text(encoding="utf-8")
        # Parsing YAML is slow: skip entries that do not contain all digests.
        if path.suffix == "" and all(md5 in text for md5 in digests):
            entry = dict(YAML(typ="safe").load(text))
            if _request(entry) == request:
                return entry
    return None
