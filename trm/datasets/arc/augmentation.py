"""Versions of ARC tasks: which are drawn, and what they are called."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.datasets.arc.render import fingerprints, turn
from trm.datasets.arc.tasks import COLOURS, SEPARATOR
from trm.data.protocol import Grid
from trm.utils.errors import DataError

ROUNDS = 5
"""A task may use up so many draws for each version wanted."""
Permutations = npt.NDArray[np.uint8]
"""Images of the colours 0 to 9, uint8 [10] or [n, 10]."""
_SAME = "0123456789"


@dataclass(frozen=True)
class Drawn:
    """The versions of a task, the task itself first: symmetries uint8 [n], permutations uint8 [n, 10].

    `key` fixes the offsets of all; `identifier` is that of the first.
    """

    symmetries: npt.NDArray[np.uint8]
    permutations: Permutations
    key: np.uint64
    identifier: int

    def __len__(self) -> int:
        return len(self.symmetries)


def draw_versions(
    pairs: Sequence[tuple[Grid, Grid | None]], num_aug: int, seeds: tuple[int, int], identifier: int
) -> Drawn:
    """The task of these pairs itself and up to `num_aug` versions of it, no two of them with the same pairs.

    `seeds` are the experiment's and the task's number, so that it does not matter who draws, and with which others.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seeds))
    key = rng.integers(2**64, dtype=np.uint64)
    symmetries = np.zeros(1, dtype=np.uint8)
    permutations = np.arange(COLOURS, dtype=np.uint8)[None]
    turned, wanted = turn(pairs), 1 + num_aug
    for _ in range(ROUNDS):
        if len(symmetries) == wanted:
            break
        more = np.tile(permutations[0], (num_aug, 1))
        rng.permuted(more[:, 1:], axis=1, out=more[:, 1:])  # colour 0 stays
        symmetries = np.concatenate([symmetries, rng.integers(8, size=num_aug, dtype=np.uint8)])
        permutations = np.concatenate([permutations, more])
        _, first_seen = np.unique(fingerprints(turned, symmetries, permutations), return_index=True)
        kept = np.sort(first_seen)[:wanted]
        symmetries, permutations = symmetries[kept], permutations[kept]
    return Drawn(symmetries, permutations, key, identifier)


@dataclass(frozen=True)
class Names:
    """The names of all puzzles by identifier, a chunk for each task.

    They are made anew each time they are gone through: a million of them take much room.
    """

    tasks: Sequence[tuple[str, Drawn]]

    def __iter__(self) -> Iterator[list[str]]:
        for task, drawn in self.tasks:
            digits = (drawn.permutations + np.uint8(ord("0"))).tobytes().decode()
            parts = [digits[at : at + COLOURS] for at in range(0, len(digits), COLOURS)]
            yield [
                name_of(task, symmetry, part) for symmetry, part in zip(drawn.symmetries.tolist(), parts, strict=True)
            ]

    def digest(self) -> str:
        """The sha256 of the names, a line break between each two."""
        digest = hashlib.sha256()
        for number, chunk in enumerate(self):
            digest.update(("\n" * bool(number) + "\n".join(chunk)).encode())
        return digest.hexdigest()


def name_of(task: str, symmetry: int, digits: str) -> str:
    """The name of a version of `task`; `digits` are the images of the colours 0 to 9. Without a change: its own."""
    return f"{task}{SEPARATOR}t{symmetry}{SEPARATOR}{digits}" if symmetry or digits != _SAME else task


def parse_name(name: str) -> tuple[str, int, Permutations]:
    """Task, symmetry and permutation of a version. Raises `DataError` for what is no such name."""
    task, *draw = name.rsplit(SEPARATOR, 2)
    if not draw:
        return task, 0, np.arange(COLOURS, dtype=np.uint8)
    symmetry, digits = draw if len(draw) == 2 else ("", "")
    if symmetry not in {f"t{number}" for number in range(8)} or sorted(digits) != list(_SAME):
        raise DataError(f"{name!r} is not the name of an ARC puzzle; run `trm augment` again")
    return task, int(symmetry[1:]), np.array([int(digit) for digit in digits], dtype=np.uint8)
