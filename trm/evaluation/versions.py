"""The versions of one puzzle that vote on its answer: the puzzle as it is, then shuffles, each with what undoes it.

A data set that votes has an entry in `VERSIONS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trm.data.sudoku import Shuffles, concatenate, draw_shuffles, identity_shuffle
from trm.errors import DataError
from trm.meta import DatasetMeta


@dataclass(frozen=True)
class Versions:
    """k versions of one puzzle; the first is the puzzle itself."""

    tokens: np.ndarray
    """uint8 [k, L]: what the model is asked."""
    undo: Callable[[np.ndarray], np.ndarray]
    """Answers to the versions, tokens uint8 [k, L], as answers to the puzzle: cells uint8 [k, height, width]."""
    draws: list[str]
    """One word for each version that names its draw."""


def cells(meta: DatasetMeta, tokens: np.ndarray) -> np.ndarray:
    """Tokens uint8 [..., L] as cell values uint8 [..., height, width]: 0 blank (or padding), d digit d."""
    return np.where(tokens == 0, 0, tokens - 1).astype(np.uint8).reshape(*tokens.shape[:-1], meta.height, meta.width)


def _sudoku(meta: DatasetMeta, tokens: np.ndarray, rng: np.random.Generator, count: int) -> Versions:
    shuffles = concatenate(identity_shuffle(meta.height), draw_shuffles(rng, meta.height, count - 1))
    return Versions(
        tokens=shuffles.apply(cells(meta, tokens)).reshape(count, -1) + np.uint8(1),
        undo=lambda answers: shuffles.invert(cells(meta, answers)),
        draws=[_draw_name(shuffles, version) for version in range(count)],
    )


def _draw_name(shuffles: Shuffles, version: int) -> str:
    orders = {
        "digits": shuffles.digits[version, 1:],
        "rows": shuffles.rows[version],
        "columns": shuffles.columns[version],
    }
    words = [f"{name}={''.join(map(str, order))}" for name, order in orders.items()]
    return ",".join([*words, f"transposed={int(shuffles.transposed[version])}"])


VERSIONS: dict[str, Callable[[DatasetMeta, np.ndarray, np.random.Generator, int], Versions]] = {"sudoku": _sudoku}
"""Kind of data set: (meta, tokens uint8 [L], generator, count) -> its versions."""


def draw_versions(meta: DatasetMeta, tokens: np.ndarray, rng: np.random.Generator, count: int) -> Versions:
    """`count` versions of the puzzle `tokens` (uint8 [L]). Raises `DataError` for a kind that has none."""
    if meta.kind not in VERSIONS:
        raise DataError(f"data set kind {meta.kind!r} has no shuffles to vote over; there are {', '.join(VERSIONS)}")
    return VERSIONS[meta.kind](meta, tokens, rng, count)
