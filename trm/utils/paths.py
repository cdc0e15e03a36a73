"""Cache folders, file digests and disk errors."""

import errno
import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether the error reports an exhausted disk or quota. safetensors reports it only in the message."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "os error 28" in str(error) or "No space left on device" in str(error)


def cache_folder() -> Path:
    """The folder of files that can be regenerated: `$TRM_CACHE_DIR`, or `trm` in the user's cache folder."""
    root = os.environ.get("TRM_CACHE_DIR")
    return Path(root) if root else user_cache_path("trm")


def states_folder() -> Path:
    """The folder of training states: `$TRM_STATE_DIR`, or `states` in the cache folder. For an s3:// URI: the local
    copy.
    """
    named = os.environ.get("TRM_STATE_DIR", "")
    if named.startswith("s3://"):
        return cache_folder() / "states"
    return Path(named) if named else user_cache_path("trm") / "states"
