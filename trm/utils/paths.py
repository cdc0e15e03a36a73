"""Addresses, cache folders, file digests and disk errors."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

from platformdirs import user_cache_path

from trm.utils.errors import UserError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
"""The start of a URL. Paths may contain it elsewhere. `Path` joins the slashes of a URL."""


def is_s3_uri(location: str | Path) -> bool:
    """Whether `location` is an S3 URI and not a local path. Raises `UserError` for any other address, such as gs://."""
    text = str(location)
    if text.startswith("s3://"):
        return True
    if _SCHEME.match(text):
        raise UserError(f"{text}: neither a local path nor an S3 URI; write it as s3://bucket/folder")
    return False


def local_path(location: str | Path) -> Path:
    """`location` as a path. Raises `UserError` for an address of a server, which would become a folder of that name."""
    if _SCHEME.match(str(location)):
        raise UserError(f"{location}: an address of a server; give a local path")
    return Path(location)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, text: str) -> None:
    """Write a text file so that it has the old or the new contents, whatever happens. A symbolic link is followed."""
    target = path.resolve() if path.is_symlink() else path
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(8)}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether the error reports an exhausted disk or quota. safetensors reports it only in the message."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "os error 28" in str(error) or "No space left on device" in str(error)


def cache_folder() -> Path:
    """The folder of files that can be regenerated: `$TRM_CACHE_DIR`, or `trm` in the user's cache folder."""
    root = os.environ.get("TRM_CACHE_DIR")
    return _named_folder("TRM_CACHE_DIR", root) if root else _user_cache("TRM_CACHE_DIR")


def states_folder() -> Path:
    """The folder of training states: `$TRM_STATE_DIR`, or `states` in the cache folder. For an s3:// URI: the local
    copy.
    """
    named = os.environ.get("TRM_STATE_DIR", "")
    if named.startswith("s3://"):
        return cache_folder() / "states"
    return _named_folder("TRM_STATE_DIR", named) if named else _user_cache("TRM_STATE_DIR") / "states"


def _named_folder(variable: str, value: str) -> Path:
    try:
        return local_path(value)
    except UserError as error:
        raise UserError(f"{variable}={error}") from None


def _user_cache(variable: str) -> Path:
    """The folder `trm` in the user's cache. Raises `UserError` if the user has no home, as in some containers."""
    try:
        return user_cache_path("trm")
    except RuntimeError:
        remedy = f"set {variable} or HOME to a writable folder"
        raise UserError(f"HOME is not set and this user has no home folder; {remedy}") from None
