"""How the threads of PyTorch wait for each other."""

import os

SPINS = "1000"
"""Turns of the loop in which a thread waits before it sleeps."""


def limit_spinning() -> None:
    """Let threads of GNU OpenMP sleep soon when they wait, unless the environment says otherwise.

    By default they wait for milliseconds in a loop. If another program uses one of the cores, the thread that they wait
    for does not run in this time, and training becomes ten times slower (docs/results.md, Training speed). Without
    effect after torch has been imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
