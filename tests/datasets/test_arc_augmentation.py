from collections import Counter

import numpy as np
import pytest

from trm.data.protocol import Grid
from trm.data.symmetries import apply_symmetry
from trm.datasets.arc.augmentation import MAX_DRAW_ROUNDS, draw_augmentations, parse_puzzle_name, puzzle_name
from trm.utils.errors import DataError


def _grid(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def _apply(grid: Grid | None, symmetry: int, permutation: np.ndarray) -> Grid | None:
    return None if grid is None else apply_symmetry(permutation[grid].astype(np.uint8), symmetry)


def _count_distinct(task: list[tuple[Grid, Grid | None]], num_aug: int) -> int:
    drawn = draw_augmentations(task, num_aug, (0, 0), 1)
    assert (drawn.symmetries[0], drawn.permutations[0].tolist()) == (0, list(range(10)))
    seen = set()
    for symmetry, permutation in zip(drawn.symmetries.tolist(), drawn.permutations, strict=True):
        assert permutation[0] == 0 and sorted(permutation) == list(range(10))
        transformed = [tuple(_apply(grid, symmetry, permutation) for grid in pair) for pair in task]
        plain = Counter(tuple(None if grid is None else str(grid.tolist()) for grid in pair) for pair in transformed)
        seen.add(frozenset(plain.items()))
    assert len(seen) == len(drawn)
    return len(drawn)


@pytest.mark.parametrize(
    ("task", "expected_count"),
    [
        ([(_grid("0"), _grid("0"))], 1),
        ([(_grid("0"), _grid("1"))], 9),
        ([(_grid("1"), _grid("2"))], 9 * 8),
        ([(_grid("1"), _grid("2")), (_grid("2"), _grid("1"))], 9 * 8 // 2),  # invariant under the order of the pairs
        ([(_grid("1"), _grid("2")), (_grid("1"), _grid("2"))], 9 * 8),  # but not under their number
        ([(_grid("01"), _grid("0"))], 9 * 4),  # rotations; reflections give no others
        ([(_grid("01", "00"), _grid("0"))], 9 * 4),
        ([(_grid("01", "00", "00"), _grid("0"))], 9 * 8),
        ([(_grid("01", "00"), None)], 9 * 4),
        ([(_grid("12"), None), (_grid("12"), _grid("0"))], 9 * 8 * 2),
    ],
)
def test_augmentations_are_distinct_and_complete(task: list[tuple[Grid, Grid | None]], expected_count: int) -> None:
    assert _count_distinct(task, 1000) == expected_count


def test_limited_draw_rounds() -> None:
    # 9 augmentations exist. Five rounds of eight draws find all of them for most seeds, but not for all.
    pairs: list[tuple[Grid, Grid | None]] = [(_grid("0"), _grid("1"))]
    counts = Counter(len(draw_augmentations(pairs, 8, (0, task), 1)) for task in range(300))
    assert MAX_DRAW_ROUNDS == 5 and counts.total() == 300
    assert 0.86 < counts[9] / 300 < 0.98 and counts[8] > 0 and min(counts) >= 7
    assert len(draw_augmentations(pairs, 0, (0, 0), 1)) == 1


def test_names_round_trip() -> None:
    names = ["a", "a|", "a|||t0|||0213456789", "a|||t5|||0123456789", "|||||t7|||0987654321"]
    for name in names:
        task, symmetry, permutation = parse_puzzle_name(name)
        assert puzzle_name(task, symmetry, "".join(map(str, permutation.tolist()))) == name
    task, symmetry, permutation = parse_puzzle_name("a||||t3|||0213456789")
    assert (task, symmetry, permutation.tolist()) == ("a|", 3, [0, 2, 1, 3, 4, 5, 6, 7, 8, 9])
    assert permutation.dtype == np.uint8


@pytest.mark.parametrize("draw", ["t1", "t8|||0123456789", "1|||0123456789", "t1|||0123456788", "t1|||012345678"])
def test_invalid_names(draw: str) -> None:
    with pytest.raises(DataError, match="is not a valid name of an ARC puzzle; run `trm augment` again"):
        parse_puzzle_name(f"a|||{draw}")
