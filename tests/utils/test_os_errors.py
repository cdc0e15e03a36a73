"""Errors of the operating system: exit code, path and remedy."""

import errno
import os
from pathlib import Path

import pytest

from trm.utils.errors import InternalError, UserError
from trm.utils.os_errors import explain

PERMISSIONS = "change its permissions, or give another path"


def _error(number: int, path: str | None = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, f"/data/x: Permission denied; {PERMISSIONS}"),
        (errno.EROFS, f"/data/x: Read-only file system; {PERMISSIONS}"),
        (errno.ENOENT, "/data/x: No such file or directory; correct the path"),
        (errno.ENOTDIR, "/data/x: Not a directory; correct the path"),
        (errno.EISDIR, "/data/x: Is a directory; correct the path"),
        (errno.ENAMETOOLONG, "/data/x: File name too long; give a shorter name"),
        (errno.EMFILE, "/data/x: Too many open files; raise the limit of open files (ulimit -n)"),
        (errno.ENOSPC, "/data/x: No space left on device; free some space"),
    ],
)
def test_errors_that_the_user_corrects(number: int, message: str) -> None:
    explained = explain(_error(number))
    assert type(explained) is UserError
    assert str(explained) == message


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ESTALE])
def test_faults_of_the_machine(number: int) -> None:
    explained = explain(_error(number))
    assert type(explained) is InternalError
    assert (
        str(explained) == f"/data/x: {os.strerror(number)}; check the disk and the machine, then run the command again"
    )


@pytest.mark.parametrize(
    ("variable", "inside"),
    [("TRM_CACHE_DIR", "artifacts/train/key"), ("TRM_STATE_DIR", "key/state.safetensors"), ("TMPDIR", "tmpabc")],
)
def test_the_setting_that_moves_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, inside: str
) -> None:
    folders = {name: tmp_path / name for name in ("TRM_CACHE_DIR", "TRM_STATE_DIR", "TMPDIR")}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
    path = f"{folders[variable]}/{inside}"
    assert str(explain(_error(errno.EACCES, path))) == f"{path}: Permission denied; set {variable} to a writable folder"
    full = str(explain(_error(errno.ENOSPC, path)))
    assert full == f"{path}: No space left on device; free some space or set {variable} to another folder"


def test_no_temporary_folder() -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    assert str(explain(error)) == "no folder for temporary files is writable; set TMPDIR to one"


def test_the_folder_that_the_user_named() -> None:
    """Outputs are first written beside it."""
    path = f"outputs/.model.partial-{'0a' * 8}/checkpoint.safetensors"
    assert str(explain(_error(errno.EACCES, path))) == f"outputs/model: Permission denied; {PERMISSIONS}"


def test_an_error_without_a_path() -> None:
    assert str(explain(_error(errno.EMFILE, None))).startswith("Too many open files; raise")
    assert str(explain(OSError("the server left"))) == (
        "the server left; check the disk and the machine, then run the command again"
    )
