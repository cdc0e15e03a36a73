"""Puzzles that are the same but for a symmetry of their kind: found by fingerprint first, decided exactly after.

A fingerprint is a number, equal for puzzles that are the same, and almost always different otherwise. Only puzzles
that share one are ever held in memory and compared.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Puzzle = npt.NDArray[np.uint8]
"""Tokens of a question, uint8 [L]."""
Fingerprints = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Equivalence:
    """When two questions of a kind are the same puzzle."""

    fingerprints: Callable[[npt.NDArray[np.uint8]], Fingerprints]
    """Of questions uint8 [N, L]: uint64 [N]."""
    same: Callable[[Puzzle, Puzzle], bool]
    """Exact."""


class Representatives:
    """One puzzle of each class met so far, found again by fingerprint and confirmed."""

    def __init__(self, same: Callable[[Any, Any], bool]) -> None:
        self._same = same
        self._known: dict[int, list[tuple[int, Puzzle]]] = {}

    def find(self, puzzle: Puzzle, fingerprint: int) -> int | None:
        """The name of the known puzzle that is the same as `puzzle`, or None."""
        for name, other in self._known.get(fingerprint, ()):
            if self._same(puzzle, other):
                return name
        return None

    def find_or_add(self, puzzle: Puzzle, fingerprint: int, name: int) -> int:
        """The same, but an unknown puzzle is added under `name`, which is returned."""
        found = self.find(puzzle, fingerprint)
        if found is None:
            self._known.setdefault(fingerprint, []).append((name, puzzle))
            return name
        return found


Parts = Callable[[], Iterable[npt.NDArray[np.uint8]]]
"""The questions of a file in order, in parts uint8 [n, L]; each call reads them anew."""


def find_duplicates(equivalence: Equivalence, train: Parts, test: Parts) -> list[tuple[int, int]]:
    """Pairs (row of a test puzzle, row of the first training puzzle that is the same)."""
    train_prints, test_prints = _fingerprints(equivalence, train), _fingerprints(equivalence, test)
    known = Representatives(equivalence.same)
    for row, puzzle in _picked(train, np.isin(train_prints, test_prints)):
        known.find_or_add(puzzle, int(train_prints[row]), row)
    found = []
    for row, puzzle in _picked(test, np.isin(test_prints, train_prints)):
        twin = known.find(puzzle, int(test_prints[row]))
        if twin is not None:
            found.append((row, twin))
    return found


def classes(equivalence: Equivalence, questions: Parts) -> npt.NDArray[np.int64]:
    """The class of each puzzle: int64 [N], the row of the first puzzle that is the same, often its own."""
    prints = _fingerprints(equivalence, questions)
    result = np.arange(len(prints), dtype=np.int64)
    _, which, counts = np.unique(prints, return_inverse=True, return_counts=True)
    known = Representatives(equivalence.same)
    for row, puzzle in _picked(questions, counts[which] > 1):
        result[row] = known.find_or_add(puzzle, int(prints[row]), row)
    return result


def _fingerprints(equivalence: Equivalence, questions: Parts) -> Fingerprints:
    return np.concatenate([equivalence.fingerprints(part) for part in questions()])


def _picked(questions: Parts, wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Puzzle]]:
    """The rows that are wanted, with their questions."""
    if not wanted.any():
        return
    start = 0
    for part in questions():
        for index in np.flatnonzero(wanted[start : start + len(part)]).tolist():
            yield start + index, part[index].copy()
        start += len(part)
