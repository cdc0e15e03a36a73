"""Output to a pipe whose reader has gone: it is discarded, and the command continues or ends without a traceback."""

import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

CLOSED = (errno.EPIPE, errno.EIO)
"""Errors of a pipe without a reader, and of a terminal that is gone."""


class _Stream:
    """A text stream that discards what it cannot write because its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            _discard(self._stream, error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            _discard(self._stream, error)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def output_may_close() -> Iterator[None]:
    """Discard output during the block once its reader has gone: a closed pipe must not end a long computation."""
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Stream(stream) for stream in old)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = old


def prepare_streams() -> None:
    """Discard what is written to a closed stdout or stderr (`>&-`); write `?` for characters that it cannot encode."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


def flush_output() -> None:
    """Write the buffered output; discard it if its reader has gone. The interpreter would fail to flush it at exit."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:
            _discard(stream, error)


def _discard(stream: TextIO, error: OSError) -> None:
    """Send this and further output of the stream to the null device. Raises other errors than those of closed pipes."""
    if error.errno not in CLOSED:
        raise error
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(null, stream.fileno())
    os.close(null)


def printable_lines(text: str) -> str:
    """Return `text` without control characters other than tabs and line breaks.

    For text of other programs, such as logs and error messages: terminals execute escape sequences.
    """
    return "".join(" " if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    """Whether this is a control character, or a format character, such as those that reverse the text after them."""
    return character not in "\t\n" and unicodedata.category(character) in ("Cc", "Cf")
