"""Messages of the launcher, on stderr: stdout carries the log of the job."""

import sys


def log(text: str) -> None:
    """Print one line with the prefix `launcher:`."""
    print(f"launcher: {text}", file=sys.stderr, flush=True)
