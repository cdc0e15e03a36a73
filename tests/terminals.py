"""Programs in a pseudo-terminal: what they print, and keys that are typed when some text has appeared."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence

from tests.conftest import ROOT

SECONDS = 60
"""Time after which a program is killed."""


def in_terminal(
    arguments: Sequence[str],
    keys: Sequence[tuple[str, str]] = (),
    size: tuple[int, int] = (40, 140),
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run `python -m <arguments>` in a terminal of `size` (lines, columns); returns the exit code and the output.

    keys: pairs of a text and the keys that are typed when it appears, after the previous keys were typed.
    """
    outside = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    variables = {**outside, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(environment or {})}
    process, handle = pty.fork()
    if process == 0:
        os.execve(sys.executable, [sys.executable, "-m", *arguments], variables)
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    pending, output, seen, end = list(keys), "", 0, time.monotonic() + SECONDS
    try:
        while select.select([handle], [], [], max(end - time.monotonic(), 0))[0]:
            try:
                part = os.read(handle, 65536)
            except OSError:  # the program has ended
                break
            if not part:
                break
            output += part.decode(errors="replace")
            if pending and (place := output.find(pending[0][0], seen)) >= 0:
                seen = place + len(pending[0][0])
                os.write(handle, pending.pop(0)[1].encode())
        else:
            os.kill(process, 9)
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), output
