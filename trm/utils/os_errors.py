"""Errors of the operating system as one line: the file or folder that is meant, and the setting that moves it."""

import errno
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from trm.utils.errors import InternalError, UserError
from trm.utils.paths import cache_folder, is_disk_full, states_folder

USER_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENXIO,
    errno.EFBIG,
}
"""Errors whose cause is a path, a permission or a limit that the user can change; all others are the machine's."""
REMEDIES = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "correct the path",
    errno.EISDIR: "correct the path",
    errno.ELOOP: "correct the path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EFBIG: "raise the limit of the file size (ulimit -f)",
}
NO_TEMPORARY_FOLDER = "no folder for temporary files is writable; set TMPDIR to one"


def explain(error: OSError) -> UserError | InternalError:
    """The error of this project for an error of the operating system.

    `UserError` for a path, a permission, a limit or a full disk; `InternalError` for a fault of the machine.
    """
    if "No usable temporary directory" in str(error):
        return UserError(NO_TEMPORARY_FOLDER)
    path = _path(error)
    what = (error.strerror or str(error)).rstrip(".")
    where = f"{path}: {what}" if path else what
    if is_disk_full(error):
        return UserError(f"{where}; free some space{_setting(path, ' or set {} to another folder')}")
    if error.errno in USER_ERRNOS:
        if error.errno in REMEDIES:
            return UserError(f"{where}; {REMEDIES[error.errno]}")
        moved = _setting(path, "set {} to a writable folder")
        return UserError(f"{where}; {moved or 'change its permissions, or give another path'}")
    return InternalError(f"{where}; check the disk and the machine, then run the command again")


def _path(error: OSError) -> str:
    """The path that the user knows: an output is written to a folder beside it, with a random name."""
    name = error.filename if isinstance(error.filename, (str, bytes)) else ""
    path = os.fsdecode(name)
    return re.sub(r"(^|/)\.([^/]+)\.(?:partial|old)-[0-9a-f]{16}(?=$|[/.]).*", r"\1\2", path)


def _setting(path: str, text: str) -> str:
    """`text` with the environment variable that moves the folder of `path`; empty if there is none."""
    if Path(path).name.startswith(tempfile.gettempprefix()):
        return text.format("TMPDIR")
    for variable, folder in {"TRM_STATE_DIR": states_folder, "TRM_CACHE_DIR": cache_folder}.items():
        with suppress(UserError, OSError):
            if path and Path(path).absolute().is_relative_to(folder().absolute()):
                return text.format(variable)
    return ""
