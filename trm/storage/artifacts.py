"""The folder that a stage writes: published whole or not at all, with a manifest that says what it is.

`manifest.json` holds the stage, its content key, its settings, the keys of its inputs, facts of the run (device,
precision, number of processes) and the digest of every file. It holds no time and no host, so that the same request
gives the same bytes; those stand in `<folder>.timing.json` beside it.
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
from trm.utils.paths import file_digest, is_disk_full

MANIFEST = "manifest.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Readable JSON with sorted keys and a last newline."""
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
    """The manifest of a whole artifact, made by `stage` where one is named. Raises `DataError`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        made_by = manifest["stage"]
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"run `trm {stage}`" if stage else "name a folder that a stage wrote"
        raise DataError(f"{folder}: holds no {MANIFEST}; {remedy}, or `dvc repro`") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / MANIFEST}: not a manifest; delete {folder} and run `dvc repro`") from None
    if stage and made_by != stage:
        raise DataError(f"{folder}: was written by stage {made_by}; name a folder that `trm {stage}` wrote")
    return manifest


def verified_manifest(folder: Path, stage: str | None = None) -> dict[str, Any]:
    """As `read_manifest`, and every file is there with the digest that it was published with. Raises `DataError`."""
    manifest = read_manifest(folder, stage)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: is missing; delete {folder} and run `dvc repro`")
        if path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
            raise DataError(f"{path}: broken, its sha256 is not the manifest's; delete {folder} and run `dvc repro`")
    return manifest


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place when the block ends well, and goes away when it does not.

    Raises `UserError` where `out` is something that no stage wrote, and where the disk is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - a link stays a link
    if out.exists() and not (out / MANIFEST).exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists and was not written by a stage; name another folder or move it away")
    created = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    # A name of its own and a lock that ends with its process: pids are no names where containers share a disk.
    token = secrets.token_hex(8)
    staging = out.parent / f".{out.name}.partial-{token}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        with FileLock(_lock_of(staging)):
            staging.mkdir()
            yield staging
            _take_place(staging, out)
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


def _take_place(staging: Path, out: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    old = staging.with_name(staging.name.replace(".partial-", ".old-"))
    out.rename(old)
    staging.rename(out)
    shutil.rmtree(old)


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}.lock".replace(".old-", ".partial-"))


def _sweep(out: Path) -> None:
    """Remove what killed processes left of earlier tries."""
    for path in out.parent.glob(f".{out.name}.*-*"):
        if not re.fullmatch(r"(partial|old)-[0-9a-f]{16}", path.name.removeprefix(f".{out.name}.")):
            continue
        lock = FileLock(_lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:  # its process is at work
            continue
        shutil.rmtree(path, ignore_errors=True)
        lock.release()
        _lock_of(path).unlink(missing_ok=True)
