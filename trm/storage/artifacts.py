"""Artifacts: the output folder of a stage, which is published completely or not at all, with a manifest.

`manifest.json` contains the stage, its content key, its settings, the keys of its inputs, facts of the run (device,
precision, number of processes) and the digest of every file and of itself. It contains no times and hosts, so that
equal requests give equal bytes; they are in `<folder>.timing.json` next to it.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from trm.utils.errors import DataError, UserError
from trm.utils.hints import run_all
from trm.utils.paths import file_digest, is_disk_full

MANIFEST = "manifest.json"
TIMING = "timing.json"
"""Wall times and host: `timing.json` next to an artifact in S3, `<folder>.timing.json` next to a local folder."""


MANIFEST_DIGEST = "manifest_sha256"
"""Key of the manifest: the SHA-256 of its other keys, in the format of `write_json`."""
FileEntry = Mapping[str, Any]
"""The entry of a file in a manifest: its `sha256` in hex digits and its size in `bytes`."""


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Indented JSON with sorted keys and a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON with sorted keys and a final newline."""
    path.write_bytes(json_bytes(value))


def file_entry(path: Path) -> dict[str, Any]:
    """The entry of a file in a manifest."""
    return {"sha256": file_digest(path), "bytes": path.stat().st_size}


def write_manifest(folder: Path, facts: Mapping[str, Any], known: Mapping[str, FileEntry] | None = None) -> None:
    """Write the manifest of a finished `folder`: the `facts` and the digest and size of every file in it.

    known: name -> entry of files whose digests were computed when their contents were made.
    """
    known = known or {}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = {**facts, "files": {name: known.get(name) or file_entry(folder / name) for name in names}}
    write_json(folder / MANIFEST, {**manifest, MANIFEST_DIGEST: _digest(manifest)})


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes({**manifest, MANIFEST_DIGEST: None})).hexdigest()


def parse_manifest(text: bytes) -> dict[str, Any]:
    """Parse a manifest. Raises `ValueError` if it is invalid or has a file outside its folder."""
    try:
        manifest = json.loads(text)
        for name, entry in manifest["files"].items():
            path = PurePosixPath(name)
            safe = not path.is_absolute() and ".." not in path.parts and str(path) == name and name != MANIFEST
            if not safe or not re.fullmatch("[0-9a-f]{64}", entry["sha256"]) or type(entry["bytes"]) is not int:
                raise ValueError(name)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return manifest


def read_manifest(folder: Path, stage: str | None = None) -> dict[str, Any]:
    """Read the manifest of an artifact, which `stage` must have written if it is not None. Raises `DataError`."""
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        intact = manifest.get(MANIFEST_DIGEST) == _digest(manifest)
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"run `trm {stage}`" if stage else "give the output folder of a stage"
        raise DataError(f"{folder}: contains no {MANIFEST}; {remedy}, or `{run_all()}`") from None
    except ValueError:
        intact, manifest = False, {}
    if not intact or "stage" not in manifest:
        raise DataError(f"{folder / MANIFEST}: not a valid manifest; delete {folder} and run `{run_all()}`")
    written_by = manifest["stage"]
    if stage and written_by != stage:
        raise DataError(f"{folder}: was written by stage {written_by}; give the output of `trm {stage}`")
    return manifest


def verified_manifest(folder: Path, stage: str | None = None) -> dict[str, Any]:
    """As `read_manifest`, and verify the digest of every file. Raises `DataError`."""
    manifest = read_manifest(folder, stage)
    for problem in damages(folder, manifest["files"]):
        raise DataError(f"{problem}; delete {folder} and run `{run_all()}`")
    return manifest


def intact_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, byte by byte as `write_manifest` wrote it. Raises `DataError`, without a remedy."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        manifest = parse_manifest(text)
        intact = manifest.get(MANIFEST_DIGEST) == _digest(manifest) and text == json_bytes(manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: is missing") from None
    except ValueError:
        intact, manifest = False, {}
    if not intact and manifest and MANIFEST_DIGEST not in manifest:
        raise DataError(f"{path}: has no digest of itself; an earlier version wrote it, or it is corrupt")
    if not intact:
        raise DataError(f"{path}: corrupt, its contents differ from its digest")
    return manifest


def damages(folder: Path, files: Mapping[str, FileEntry]) -> Iterator[str]:
    """The path of each file that is missing or differs from its entry, and what is wrong with it."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is missing"
            continue
        try:
            differs = path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]
        except OSError as error:
            if error.errno != errno.EIO:  # others are no damage of the file
                raise
            yield f"{path}: cannot be read ({error.strerror})"
            continue
        if differs:
            yield f"{path}: corrupt, its SHA-256 differs from the manifest"


def copy_verified(source: Path, target: Path, entry: FileEntry) -> None:
    """Copy a file whose bytes must be those of its entry in a manifest. Raises `DataError`, without a remedy."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise DataError(f"{source}: is missing") from None
    for _ in damages(target.parent, {target.name: entry}):
        raise DataError(f"{source}: corrupt, its SHA-256 differs from the manifest")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which replaces `out` when the block succeeds and is deleted when it fails.

    Raises `UserError` if `out` exists and was not written by a stage, or if the disk is full.
    """
    link, out = Path(out), Path(os.path.realpath(out))
    if link.is_symlink() and not out.exists():
        raise UserError(f"{link}: a link to {out}, which does not exist; create that folder or remove the link")
    if Path.cwd().is_relative_to(out):
        raise UserError(f"{link}: is the current folder, or contains it; give a folder of its own")
    if out.exists() and not (out / MANIFEST).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and was not written by a stage; give another folder or move it away")
    created = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    # A random name and a file lock, not a process ID: containers that share a disk may have equal process IDs.
    token = secrets.token_hex(8)
    staging = out.parent / f".{out.name}.partial-{token}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _delete_stale(out)
        _lock_of(staging).touch()  # raises the errors for which `FileLock` waits, as in /proc
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
    try:
        staging.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}.lock")


def _delete_stale(out: Path) -> None:
    """Delete what killed processes left behind. A replacement that was cut short is finished first."""
    found = {path.name.removesuffix(".lock").rpartition("-")[2] for path in out.parent.glob(f".{out.name}.*-*")}
    for token in found:
        if not re.fullmatch(r"[0-9a-f]{16}", token):
            continue
        new, old = (out.parent / f".{out.name}.{kind}-{token}" for kind in ("partial", "old"))
        lock = FileLock(_lock_of(new))
        try:
            lock.acquire(timeout=0)
        except Timeout:  # its process is running
            continue
        if old.exists() and not out.exists():  # killed between the two renames: `new` is complete
            (new if new.exists() else old).rename(out)
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        lock.release()
        _lock_of(new).unlink(missing_ok=True)


def timing_file(folder: Path) -> Path:
    """The path of the file with the wall times of the stage that wrote `folder`."""
    return folder.with_name(f"{folder.name}.{TIMING}")
