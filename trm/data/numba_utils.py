"""The numba decorator of this project, and random numbers for compiled functions.

Numba caches machine code on disk and recompiles when the source file of a function changes, but not when an imported
compiled function changes. This file is the only one whose compiled functions are imported elsewhere, so its digest is
part of the cache path.
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from trm.utils.paths import cache_folder, file_digest

MACHINE_CODE_FOLDER = os.environ.get("NUMBA_CACHE_DIR") or str(
    cache_folder() / "numba" / file_digest(Path(__file__))[:16]
)
"""Cache folder of the machine code; see `NUMBA_CACHE_DIR` in the numba docs."""


class _Compiled:
    """A function that numba compiles at its first call. Importing numba takes a quarter of a second."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function

    @cached_property
    def dispatcher(self) -> Callable[..., Any]:
        import numba

        numba.config.CACHE_DIR = MACHINE_CODE_FOLDER  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        function = self._function
        # numba looks up the functions that are called, which must be its own.
        names = {name: value.dispatcher if isinstance(value, _Compiled) else value for name, value in _used(function)}
        resolved = FunctionType(function.__code__, function.__globals__ | names, function.__name__)
        resolved.__module__, resolved.__qualname__ = function.__module__, function.__qualname__
        try:
            return numba.njit(cache=True, nogil=True)(resolved)
        except RuntimeError:  # no writable cache folder: compile in every process
            return numba.njit(nogil=True)(resolved)

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - as the function
        return self.dispatcher(*arguments)


def _used(function: FunctionType) -> list[tuple[str, Any]]:
    return [(name, function.__globals__[name]) for name in function.__code__.co_names if name in function.__globals__]


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit` without the GIL, at the first call, with machine code cached on disk if a cache folder is writable.

    function: its default values are not used.
    """
    assert isinstance(function, FunctionType)
    return _Compiled(function)


@njit
def random_below(state, limit):  # noqa: ANN001, ANN201  (numba infers the types)
    """A uniform integer in [0, limit) from splitmix64; advances `state`, uint64 [1]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    x = state[0]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.int64((x >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32))


@njit
def shuffle(values, state):  # noqa: ANN001, ANN201
    """Permute `values` [n] in place, uniformly at random."""
    for last in range(len(values) - 1, 0, -1):
        other = random_below(state, last + 1)
        values[last], values[other] = values[other], values[last]


def random_state(*seeds: int) -> np.ndarray:
    """Initial state for `random_below`, uint64 [1], derived from the seeds by `numpy.random.SeedSequence`."""
    return np.random.SeedSequence(seeds).generate_state(1, np.uint64)
