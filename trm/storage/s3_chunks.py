"""Parts of files as the bodies of S3 requests."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 256 << 10
"""Bytes read or written at a time. They fit into the cache of a processor."""


class CancelledTransferError(Exception):
    """The transfer was cancelled."""


@dataclass(frozen=True)
class FileChunk:
    """A range of bytes of a local file, which is transferred in one request."""

    path: Path
    start: int
    size: int


OnBytes = Callable[[int], None]
"""Called from any thread with the number of bytes transferred; negative if they must be transferred again."""


class ChunkBody:
    """A chunk as the body of a request, read in blocks of `BLOCK` bytes (the HTTP client requests only 16 kB)."""

    def __init__(self, file: BinaryIO, chunk: FileChunk, on_bytes: OnBytes, cancelled: threading.Event) -> None:
        self._file, self._chunk, self._on_bytes, self._cancelled = file, chunk, on_bytes, cancelled
        self._position = 0
        self.seek(0)

    def __len__(self) -> int:
        return self._chunk.size

    def read(self, _size: int | None = None) -> bytes:
        """The next block."""
        if self._cancelled.is_set():
            raise CancelledTransferError
        block = self._file.read(min(BLOCK, len(self) - self._position))
        self._position += len(block)
        self._on_bytes(len(block))
        return block

    def seek(self, offset: int) -> None:
        """Start again at an offset in the chunk, for a repeated request."""
        self._on_bytes(offset - self._position)
        self._position = offset
        self._file.seek(self._chunk.start + offset)

    def tell(self) -> int:
        """The position in the chunk."""
        return self._position
