"""What the functions compiled with numba share.

Numba keeps machine code from one process to the next and notices a change of the file that a function stands in, not
of what it imports. Only this file is imported so, and so its digest names the folder where the code is kept.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from trm.utils.paths import cache_folder, file_digest

CODE_FOLDER = os.environ.get("NUMBA_CACHE_DIR") or str(cache_folder() / "numba" / file_digest(Path(__file__))[:16])
numba.config.CACHE_DIR = CODE_FOLDER  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without holding the interpreter, and keep the machine code for the next process."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the cache can be written (a read-only install without a home): compile anew
        return numba.njit(nogil=True)(function)


@compiled
def random_below(state, limit):  # noqa: ANN001, ANN201  (compiled: numba infers the types)
    """A number in 0 .. limit - 1 from splitmix64; `state` uint64 [1] moves on."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    x = state[0]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.int64((x >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


@compiled
def shuffle(values, state):  # noqa: ANN001, ANN201
    """Permute `values` [n] in place, each order as likely as any other."""
    for last in range(len(values) - 1, 0, -1):
        other = random_below(state, last + 1)
        values[last], values[other] = values[other], values[last]


def random_state(*seeds: int) -> np.ndarray:
    """A state for `random_below`, uint64 [1], from any numbers that name what it is for."""
    return np.random.SeedSequence(seeds).generate_state(1, np.uint64)
