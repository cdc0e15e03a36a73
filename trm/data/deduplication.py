"""Equivalent puzzles: candidates are found by fingerprint, then decided by an exact comparison.

Equivalent puzzles have equal fingerprints; other puzzles almost always have different ones. Only puzzles with a common
fingerprint are held in memory and compared.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Puzzle = npt.NDArray[np.uint8]
"""Question tokens, uint8 [L]."""
Fingerprints = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Equivalence:
    """An equivalence relation on the questions of a dataset, usually equality up to a symmetry."""

    fingerprints: Callable[[npt.NDArray[np.uint8]], Fingerprints]
    """Maps questions uint8 [N, L] to uint64 [N], equal for equivalent questions."""
    are_equivalent: Callable[[Puzzle, Puzzle], bool]
    """Exact test of two questions, uint8 [L] each."""


class Representatives:
    """One puzzle of each equivalence class seen so far."""

    def __init__(self, are_equivalent: Callable[[Any, Any], bool]) -> None:
        self._are_equivalent = are_equivalent
        self._known: dict[int, list[tuple[int, Puzzle]]] = {}

    def find(self, puzzle: Puzzle, fingerprint: int) -> int | None:
        """The name of the known puzzle that is equivalent to `puzzle`, or None."""
        for name, other in self._known.get(fingerprint, ()):
            if self._are_equivalent(puzzle, other):
                return name
        return None

    def find_or_add(self, puzzle: Puzzle, fingerprint: int, name: int) -> int:
        """As `find`, but an unknown puzzle is added under `name`, which is returned."""
        found = self.find(puzzle, fingerprint)
        if found is None:
            self._known.setdefault(fingerprint, []).append((name, puzzle))
            return name
        return found


QuestionReader = Callable[[], Iterable[npt.NDArray[np.uint8]]]
"""Returns the questions of a file in order, in parts uint8 [n, L]; each call reads the file again."""


def find_duplicates(equivalence: Equivalence, train: QuestionReader, test: QuestionReader) -> list[tuple[int, int]]:
    """Pairs (row of a test puzzle, row of the first equivalent training puzzle)."""
    train_prints, test_prints = _fingerprints(equivalence, train), _fingerprints(equivalence, test)
    known = Representatives(equivalence.are_equivalent)
    for row, puzzle in _select(train, np.isin(train_prints, test_prints)):
        known.find_or_add(puzzle, int(train_prints[row]), row)
    found = []
    for row, puzzle in _select(test, np.isin(test_prints, train_prints)):
        match = known.find(puzzle, int(test_prints[row]))
        if match is not None:
            found.append((row, match))
    return found


def equivalence_classes(equivalence: Equivalence, questions: QuestionReader) -> npt.NDArray[np.int64]:
    """Equivalence class of each puzzle, int64 [N]: the row of the first equivalent puzzle."""
    prints = _fingerprints(equivalence, questions)
    result = np.arange(len(prints), dtype=np.int64)
    _, inverse, counts = np.unique(prints, return_inverse=True, return_counts=True)
    known = Representatives(equivalence.are_equivalent)
    for row, puzzle in _select(questions, counts[inverse] > 1):
        result[row] = known.find_or_add(puzzle, int(prints[row]), row)
    return result


def _fingerprints(equivalence: Equivalence, questions: QuestionReader) -> Fingerprints:
    return np.concatenate([equivalence.fingerprints(part) for part in questions()])


def _select(questions: QuestionReader, selected: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Puzzle]]:
    """The selected rows and their questions."""
    if not selected.any():
        return
    start = 0
    for part in questions():
        for index in np.flatnonzero(selected[start : start + len(part)]).tolist():
            yield start + index, part[index].copy()
        start += len(part)
