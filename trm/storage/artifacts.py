"""Artifacts: the output folder of a stage, which is published completely or not at all, with a manifest.

`manifest.json` contains the stage, its content key, its settings, the keys of its inputs, facts of the run (device,
precision, number of processes) and the digest of every file. It contains no times and hosts, so that equal requests
give equal bytes; they are in `<folder>.timing.json` next to it.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trm.utils.errors import DataError, UserError
from trm.utils.hints import run_all
from trm.utils.paths import file_digest, is_disk_full

MANIFEST = "manifest.json"
TIMING = "timing.json"
"""Wall times and host: `timing.json` next to an artifact in S3, `<folder>.timing.json` next to a local folder."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON with sorted keys and a final newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a finished `folder`: the `facts` and the digest and size of every file in it."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path, stage: str | None = None) -> dict[str, Any]:
    """Read the manifest of an artifact, which `stage` must have written if it is not None. Raises `DataError`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written_by = manifest["stage"]
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"run `trm {stage}`" if stage else "give the output folder of a stage"
        raise DataError(f"{folder}: contains no {MANIFEST}; {remedy}, or `{run_all()}`") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / MANIFEST}: not a valid manifest; delete {folder} and run `{run_all()}`") from None
    if stage and written_by != stage:
        raise DataError(f"{folder}: was written by stage {written_by}; give the output of `trm {stage}`")
    return manifest


def verified_manifest(folder: Path, stage: str | None = None) -> dict[str, Any]:
    """As `read_manifest`, and verify the digest of every file. Raises `DataError`."""
    manifest = read_manifest(folder, stage)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: is missing; delete {folder} and run `{run_all()}`")
        if path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
            raise DataError(
                f"{path}: corrupt, its SHA-256 differs from the manifest; delete {folder} and run `{run_all()}`"
            )
    return manifest


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which replaces `out` when the block succeeds and is deleted when it fails.

    Raises `UserError` if `out` exists and was not written by a stage, or if the disk is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - Path.resolve would follow links
    if out.exists() and not (out / MANIFEST).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and was not written by a stage; give another folder or move it away")
    created = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    # A random name and a file lock, not a process ID: containers that share a disk may have equal process IDs.
    token = secrets.token_hex(8)
    staging = out.parent / f".{out.name}.partial-{token}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _delete_stale(out)
        with FileLock(_lock_of(staging)):
            staging.mkdir()
            yield staging
            _replace(staging, out)
        _lock_of(staging).unlink(missing_ok=True)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        _lock_of(staging).unlink(missing_ok=True)
        for folder in created:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if is_disk_full(error):
            raise UserError(f"{out}: no space left on the disk; free some and run the command again") from error
        raise


def _replace(staging: Path, out: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    old = staging.with_name(staging.name.replace(".partial-", ".old-"))
    out.rename(old)
    staging.rename(out)
    shutil.rmtree(old)


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}.lock".replace(".old-", ".partial-"))


def _delete_stale(out: Path) -> None:
    """Delete folders that killed processes left behind."""
    for path in out.parent.glob(f".{out.name}.*-*"):
        if not re.fullmatch(r"(partial|old)-[0-9a-f]{16}", path.name.removeprefix(f".{out.name}.")):
            continue
        lock = FileLock(_lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:  # its process is running
            continue
        shutil.rmtree(path, ignore_errors=True)
        lock.release()
        _lock_of(path).unlink(missing_ok=True)


def timing_file(folder: Path) -> Path:
    """The path of the file with the wall times of the stage that wrote `folder`."""
    return folder.with_name(f"{folder.name}.{TIMING}")
