"""How the launcher speaks: on stderr, apart from the job's log on stdout."""

import sys


def say(text: str) -> None:
    """A line of the launcher's own."""
    print(f"launcher: {text}", file=sys.stderr, flush=True)
