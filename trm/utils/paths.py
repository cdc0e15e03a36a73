"""What many ask about files."""

import errno
import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that a disk or a quota is used up (safetensors says so in words alone)."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "os error 28" in str(error) or "No space left on device" in str(error)


def cache_folder() -> Path:
    """Where things lie that can be made again: `$TRM_CACHE_DIR` or the user's cache folder."""
    root = os.environ.get("TRM_CACHE_DIR")
    return Path(root) if root else user_cache_path("trm")


def states_folder() -> Path:
    """`$TRM_STATE_DIR`, or the `states` folder of the cache, where states lie too that are copied to S3."""
    named = os.environ.get("TRM_STATE_DIR", "")
    if named.startswith("s3://"):
        return cache_folder() / "states"
    return Path(named) if named else user_cache_path("trm") / "states"
