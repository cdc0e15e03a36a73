"""Random access to splits that do not fit into memory: decoded once into a file of fixed-size rows.

The file is `$TRM_CACHE_DIR/rows/<SHA-256 of the source>.rows` (default: the user's cache folder). Rows are read with
`pread`, not mapped into memory: the resident memory of the process stays small, and the page cache of the system holds
frequently used rows.
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

MAX_UNUSED_DAYS = 30
"""Age after the last use at which cache files are deleted, when a new one is written."""


class CachedRows:
    """N rows of `length` bytes in a file, `stride` bytes apart, indexed like an array uint8 [N, length].

    `open_file` returns the file descriptor; it is called when the first row is read.
    """

    def __init__(self, open_file: Callable[[], int], count: int, length: int, stride: int, start: int) -> None:
        self._open_file = open_file
        self._count, self._length, self._stride, self._start = count, length, stride, start

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice | npt.NDArray[np.integer] | int) -> npt.NDArray[np.uint8]:
        """Read rows: uint8 [length] for an integer, uint8 [k, length] for a slice or k indices.

        Raises `IndexError` for indices outside [-N, N).
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._count))
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        if rows.size and not (-self._count <= rows.min() and rows.max() < self._count):
            raise IndexError(f"rows must be below {self._count}. Got {rows.min()}..{rows.max()}")
        offsets = self._start + self._stride * np.where(rows < 0, rows + self._count, rows).astype(np.int64)
        file, length, read = self._open_file(), self._length, os.pread
        data = b"".join([read(file, length, offset) for offset in offsets.tolist()])
        return np.frombuffer(data, np.uint8).reshape(len(rows), length)


DecodedBlocks = Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]
"""Blocks of (inputs, labels), uint8 [n, length] each."""


class _CacheFile:
    """The cache file: written if necessary and opened at the first call, closed when garbage-collected."""

    def __init__(self, source: Path, count: int, length: int, decode: Callable[[], DecodedBlocks]) -> None:
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
            raise UserError(f"{error.filename or folder}: {problem}; free space, or set TRM_CACHE_DIR") from None
        return path


def cached_rows(
    source: Path, count: int, length: int, decode: Callable[[], DecodedBlocks]
) -> tuple[CachedRows, CachedRows]:
    """Inputs and labels of the file `source`, each indexed like uint8 [count, length].

    `decode` yields them in blocks; it is called when the first row is read and no cache file exists. That read raises
    `UserError` if the cache folder cannot be written.
    """
    file = _CacheFile(source, count, length, decode)
    return CachedRows(file, count, length, 2 * length, 0), CachedRows(file, count, length, 2 * length, length)


def _decode(path: Path, count: int, decoded: DecodedBlocks) -> None:
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as file, progress("decode", count) as bar:
            for inputs, labels in decoded:
                file.write(np.stack([inputs, labels], axis=1).tobytes())
                bar.advance(len(inputs))
            file.flush()
            os.fsync(file.fileno())  # the rows must reach the disk before the final name
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _delete_unused(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process may delete the same file
            if time.time() - path.stat().st_mtime > MAX_UNUSED_DAYS * 86400:
                path.unlink()
