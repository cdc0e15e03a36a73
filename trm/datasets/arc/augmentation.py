"""Augmentations of ARC tasks: random symmetries and color permutations, and their names."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.protocol import Grid
from trm.datasets.arc.render import fingerprints, transform_grids
from trm.datasets.arc.tasks import NUM_COLORS, SEPARATOR
from trm.utils.errors import DataError

MAX_DRAW_ROUNDS = 5
"""Rounds of `num_aug` draws per task; duplicates are dropped."""
Permutations = npt.NDArray[np.uint8]
"""Images of the colors 0 to 9, uint8 [10] or [n, 10]."""
_IDENTITY = "0123456789"


@dataclass(frozen=True)
class TaskAugmentations:
    """The augmentations of a task; the first is the task itself."""

    symmetries: npt.NDArray[np.uint8]
    """uint8 [n]; see `trm.data.symmetries`."""
    permutations: Permutations
    """Color permutations, uint8 [n, 10]."""
    key: np.uint64
    """Random key of the canvas offsets."""
    identifier: int
    """Puzzle identifier of the first augmentation; the others follow."""

    def __len__(self) -> int:
        return len(self.symmetries)


def draw_augmentations(
    pairs: Sequence[tuple[Grid, Grid | None]], num_aug: int, seeds: tuple[int, int], identifier: int
) -> TaskAugmentations:
    """The task with these pairs and up to `num_aug` augmentations of it, no two with the same pairs.

    seeds: (seed of the experiment, number of the task). The result depends only on the arguments.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seeds))
    key = rng.integers(2**64, dtype=np.uint64)
    symmetries = np.zeros(1, dtype=np.uint8)
    permutations = np.arange(NUM_COLORS, dtype=np.uint8)[None]
    grids, max_count = transform_grids(pairs), 1 + num_aug
    for _ in range(MAX_DRAW_ROUNDS):
        if len(symmetries) == max_count:
            break
        more = np.tile(permutations[0], (num_aug, 1))
        rng.permuted(more[:, 1:], axis=1, out=more[:, 1:])  # color 0 is fixed
        symmetries = np.concatenate([symmetries, rng.integers(8, size=num_aug, dtype=np.uint8)])
        permutations = np.concatenate([permutations, more])
        _, first_seen = np.unique(fingerprints(grids, symmetries, permutations), return_index=True)
        kept = np.sort(first_seen)[:max_count]
        symmetries, permutations = symmetries[kept], permutations[kept]
    return TaskAugmentations(symmetries, permutations, key, identifier)


@dataclass(frozen=True)
class PuzzleNames:
    """Names of all puzzles in the order of their identifiers, in one chunk per task.

    Iteration generates the names, because a million of them need much memory.
    """

    tasks: Sequence[tuple[str, TaskAugmentations]]
    """Name and augmentations of each task."""

    def __iter__(self) -> Iterator[list[str]]:
        for task, augmentations in self.tasks:
            digits = (augmentations.permutations + np.uint8(ord("0"))).tobytes().decode()
            parts = [digits[start : start + NUM_COLORS] for start in range(0, len(digits), NUM_COLORS)]
            yield [
                puzzle_name(task, symmetry, part)
                for symmetry, part in zip(augmentations.symmetries.tolist(), parts, strict=True)
            ]

    def digest(self) -> str:
        """SHA-256 of the names, joined by line breaks."""
        digest = hashlib.sha256()
        for number, chunk in enumerate(self):
            digest.update(("\n" * bool(number) + "\n".join(chunk)).encode())
        return digest.hexdigest()


def puzzle_name(task: str, symmetry: int, digits: str) -> str:
    """Name of an augmentation of `task`; `digits` are the images of the colors 0 to 9. The identity has the name of the
    task.
    """
    return f"{task}{SEPARATOR}t{symmetry}{SEPARATOR}{digits}" if symmetry or digits != _IDENTITY else task


def parse_puzzle_name(name: str) -> tuple[str, int, Permutations]:
    """Task, symmetry and color permutation of a puzzle name. Raises `DataError` if the name is invalid."""
    task, *suffix = name.rsplit(SEPARATOR, 2)
    if not suffix:
        return task, 0, np.arange(NUM_COLORS, dtype=np.uint8)
    symmetry, digits = suffix if len(suffix) == 2 else ("", "")
    if symmetry not in {f"t{number}" for number in range(8)} or sorted(digits) != list(_IDENTITY):
        raise DataError(f"{name!r} is not a valid name of an ARC puzzle; run `trm augment` again")
    return task, int(symmetry[1:]), np.array([int(digit) for digit in digits], dtype=np.uint8)
