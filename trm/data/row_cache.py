"""Examples too many for memory: decoded once into one file of rows, of which a batch reads just the rows it needs.

The file lies in `$TRM_CACHE_DIR/rows` (default: the user's cache folder) under the sha256 of what was decoded. Reading
rows, and not mapping the file, keeps the process's memory what it was; the system keeps in its cache what is asked
often.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trm.utils.errors import UserError
from trm.utils.paths import cache_folder, file_digest, is_disk_full
from trm.utils.progress import progress

UNUSED_DAYS = 30
"""Files that nobody opened for so long are deleted when a new one is made."""


class StoredRows:
    """Rows of `length` bytes in a file, `stride` bytes apart: read like an array uint8 [N, length].

    `open_file` gives the file's descriptor; it is called when the first row is asked for.
    """

    def __init__(self, open_file: Callable[[], int], count: int, length: int, stride: int, start: int) -> None:
        self._open_file = open_file
        self._count, self._length, self._stride, self._start = count, length, stride, start

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice | npt.NDArray[np.integer] | int) -> npt.NDArray[np.uint8]:
        """The rows that an index, a slice or indices [k] name, read now: uint8 [length] or [k, length]."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._count))
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        if rows.size and not (-self._count <= rows.min() and rows.max() < self._count):
            raise IndexError(f"rows must be below {self._count}. Got {rows.min()}..{rows.max()}")
        places = self._start + self._stride * np.where(rows < 0, rows + self._count, rows).astype(np.int64)
        file, length, read = self._open_file(), self._length, os.pread
        joined = b"".join([read(file, length, place) for place in places.tolist()])
        return np.frombuffer(joined, np.uint8).reshape(len(rows), length)


Decoded = Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


class _File:
    """The file of rows: made, if it must be, and opened at the first call; closed when nobody has it any more."""

    def __init__(self, source: Path, count: int, length: int, decode: Callable[[], Decoded]) -> None:
        self.source, self.count, self.length, self.decode = source, count, length, decode
        self.descriptor: int | None = None

    def __call__(self) -> int:
        if self.descriptor is None:
            self.descriptor = os.open(self.path(), os.O_RDONLY)
            weakref.finalize(self, os.close, self.descriptor)
        return self.descriptor

    def path(self) -> Path:
        folder, digest = cache_folder() / "rows", file_digest(self.source)
        path = folder / f"{digest}.rows"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{digest}.lock"):
                if not path.is_file() or path.stat().st_size != 2 * self.count * self.length:
                    _delete_unused(folder)
                    _decode(path, self.count, self.decode())
                os.utime(path)
        except OSError as error:
            problem = "the disk is full" if is_disk_full(error) else f"cannot be written ({error.strerror})"
            raise UserError(f"{error.filename or folder}: {problem}; mend it or set TRM_CACHE_DIR") from None
        return path


def stored_rows(source: Path, count: int, length: int, decode: Callable[[], Decoded]) -> tuple[StoredRows, StoredRows]:
    """Inputs and labels, each like uint8 [count, length], of the file `source`.

    `decode` gives them in parts; it is called when the first row is asked for, unless they are stored already. Raises
    `UserError`, then, where the disk is full.
    """
    file = _File(source, count, length, decode)
    return StoredRows(file, count, length, 2 * length, 0), StoredRows(file, count, length, 2 * length, length)


def _decode(path: Path, count: int, decoded: Decoded) -> None:
    beside = path.with_suffix(".partial")
    try:
        with beside.open("wb") as file, progress("decode", count) as shown:
            for inputs, labels in decoded:
                file.write(np.stack([inputs, labels], axis=1).tobytes())
                shown.advance(len(inputs))
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the rows
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _delete_unused(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process may be tidying up, too
            if time.time() - file.stat().st_mtime > UNUSED_DAYS * 86400:
                file.unlink()
