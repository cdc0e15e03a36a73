"""DVC's commands, and what `dvc repro` would do, found out without starting it (which takes longer than a plan may)."""

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

from trm.utils.errors import InternalError, UserError

DVC_YAML, LOCK = Path("dvc.yaml"), Path("dvc.lock")
IGNORED = "__pycache__"
"""What .dvcignore leaves out."""


@dataclass(frozen=True)
class Change:
    """One thing that differs from the request of a result that is there."""

    what: str
    """param, module, file, version, input, or new: nothing is recorded to compare with."""
    name: str
    was: Any = None
    now: Any = None


@dataclass(frozen=True)
class Repro:
    """What `dvc repro` would do with a stage."""

    does: str
    """unchanged; restore: from DVC's run cache; pull: unchanged, but its output is not on this disk; or run."""
    because: tuple[Change, ...]
    """What differs from dvc.lock."""
    cached: bool
    """Whether the output lies in DVC's cache."""


def dvc(*arguments: str) -> str:
    """Run DVC; its stdout. Raises `InternalError` in its own words where it fails."""
    program = shutil.which("dvc", path=str(Path(sys.executable).parent)) or shutil.which("dvc")
    if program is None:
        raise InternalError("dvc is not installed here; `make repro` installs it")
    ended = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())
        raise InternalError(f"dvc {arguments[0]} failed ({said or 'the outputs are not what dvc.yaml says'})")
    return ended.stdout


def repro(params: Path) -> dict[str, Repro]:
    """What `dvc repro` would do with each stage of dvc.yaml. Raises `UserError` where its files cannot be read."""
    if not DVC_YAML.is_file():
        raise UserError("dvc.yaml is not here; run this in the folder that holds params.yaml and dvc.yaml")
    stages, values = _yaml(DVC_YAML)["stages"], _yaml(params)
    locked = _yaml(LOCK).get("stages", {}) if LOCK.is_file() else {}
    cache, made, found = _cache(), dict[str, str | None](), dict[str, Repro]()
    for name, stage in stages.items():
        wanted = {
            "cmd": stage["cmd"],
            "deps": {path: made[path] if path in made else _digest(Path(path)) for path in stage["deps"]},
            "params": {section: values.get(section) for section in stage["params"]},
        }
        entry = locked.get(name)
        because = () if entry is None else tuple(_changes(_request(entry), wanted, made))
        if entry is None:
            because = (Change("new", name),)
        if because:
            entry = _run_cached(cache / "runs", wanted)
        outs = {} if entry is None else {out["path"]: out["md5"] for out in entry["outs"]}
        cached = bool(outs) and all(_object(cache, md5).is_file() for md5 in outs.values())
        if because and not cached:
            outs = {}
        made |= {path: outs.get(path) for path in stage["outs"]}
        here = all(Path(path).exists() for path in stage["outs"])
        does = ("restore" if cached else "run") if because else ("unchanged" if here or cached else "pull")
        found[name] = Repro(does, because, cached)
    return found


def unlike(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: dotted name, value in `one`, value in `other`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys((*one, *other)):
            yield from unlike(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, YAMLError, TypeError, ValueError):
        raise UserError(f"{path}: cannot be read as YAML; mend it, or take it from git again") from None


def _request(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry of dvc.lock or of the run cache was made of."""
    params = entry.get("params", {})
    return {
        "cmd": entry["cmd"],
        "deps": {dep["path"]: dep.get("md5") for dep in entry.get("deps", ())},
        "params": params.get("params.yaml", {}),
    }


def _changes(was: Mapping[str, Any], now: Mapping[str, Any], made: Mapping[str, Any]) -> Iterator[Change]:
    for name, before, after in unlike(was["params"], now["params"]):
        yield Change("param", name, before, after)
    for path in dict.fromkeys((*now["deps"], *was["deps"])):
        if was["deps"].get(path) != now["deps"].get(path) or path not in now["deps"]:
            yield Change("input" if path in made else "module", path)
    if was["cmd"] != now["cmd"]:
        yield Change("file", str(DVC_YAML))


def _digest(path: Path) -> str | None:
    """A file's md5, and a folder's as DVC makes it: of the list of its files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if not path.is_dir():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file() and IGNORED not in file.parts)
    listed = [{"md5": _digest(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: str(entry["relpath"]))
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _cache() -> Path:
    config = ConfigParser(interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"])
    return Path(".dvc", config.get("cache", "dir", fallback="cache"))


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _run_cached(runs: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of DVC's run cache for this request."""
    digests = [md5 for md5 in wanted["deps"].values() if md5]
    if len(digests) < len(wanted["deps"]) or not runs.is_dir():
        return None
    for path in runs.glob("*/*/*"):
        text = path.read_text(encoding="utf-8")
        # YAML takes its time: first a look at whether all the digests occur.
        if path.suffix == "" and all(md5 in text for md5 in digests):
            entry = dict(YAML(typ="safe").load(text))
            if _request(entry) == wanted:
                return entry
    return None
