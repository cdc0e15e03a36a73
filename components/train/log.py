"""Messages of the launcher, on stderr: stdout carries the log of the job."""

import sys

from trm.utils.output import printable_lines


def log(text: str) -> None:
    """Print one line with the prefix `launcher:`."""
    print(f"launcher: {printable_lines(text)}", file=sys.stderr, flush=True)
