from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trm.data.batches import IGNORE_INDEX, StreamPosition, collate, test_batches, total_steps, training_batches
from trm.data.parquet import Split


def make_split(*groups: list[int], length: int = 2) -> Split:
    """A split whose groups have puzzles with these numbers of examples."""
    group = [g for g, puzzles in enumerate(groups) for n in puzzles for _ in range(n)]
    numbered = [n for puzzles in groups for n in puzzles]
    puzzle = [p for p, n in enumerate(numbered) for _ in range(n)]
    count = len(group)
    tokens = np.arange(count * length, dtype=np.uint8).reshape(count, length)
    ints = [np.array(values, dtype=np.int32) for values in (group, puzzle, range(count), [0] * count, [5] * count)]
    return Split(tokens, tokens % 3, ints[0], ints[1], ints[2], ints[3], ("s",), ints[4])


def test_batches_extend_across_epochs() -> None:
    split = make_split(*[[1]] * 10)
    batches = list(training_batches(split, 2, 4, seed=0))
    assert [position for *_, position in batches] == [
        StreamPosition(0, 4),
        StreamPosition(0, 8),
        StreamPosition(1, 2),
        StreamPosition(1, 6),
        StreamPosition(2, 0),
    ]
    rows = np.concatenate([rows for rows, *_ in batches])
    assert rows.dtype == np.int64
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert np.concatenate([epochs for _, epochs, _ in batches]).tolist() == [0] * 10 + [1] * 10
    assert total_steps(split, 2, 4) == 5
    # 3 epochs: 30 examples, 7 batches, two examples are dropped at the end
    assert len(list(training_batches(split, 3, 4, seed=0))) == total_steps(split, 3, 4) == 7


def test_one_puzzle_per_group_and_epoch() -> None:
    split = make_split([1, 1, 1], [1], [1, 1])
    counts = Counter()
    for rows, *_ in training_batches(split, 3000, 3, seed=1):
        assert sorted(split.groups[rows]) == [0, 1, 2]
        counts.update(rows.tolist())
    assert all(900 < counts[row] < 1100 for row in (0, 1, 2))
    assert counts[3] == 3000
    assert all(1400 < counts[row] < 1600 for row in (4, 5))


def test_puzzle_is_truncated_at_end_of_batch() -> None:
    split = make_split([5], [5])
    batches = list(training_batches(split, 2, 4, seed=0))
    # Each batch is filled by one puzzle of five; the fifth example is skipped: four batches from four puzzles.
    assert [position for *_, position in batches] == [
        StreamPosition(0, 1),
        StreamPosition(1, 0),
        StreamPosition(1, 1),
        StreamPosition(2, 0),
    ]
    assert all(len(set(split.groups[rows])) == 1 and len(set(rows)) == 4 for rows, *_ in batches)
    # Mean 5 examples, 2 epochs, 2 groups: a schedule of floor(20 / 4) = 5 steps; truncation leaves 4.
    assert total_steps(split, 2, 4) == 5


def test_truncation_across_epochs() -> None:
    split = make_split([3], [3])
    batches = list(training_batches(split, 2, 4, seed=3))
    # 3 + 1 of the second (2 skipped) | 3 + 1 of the second of epoch 1
    assert [position for *_, position in batches] == [StreamPosition(1, 0), StreamPosition(2, 0)]
    big = list(training_batches(split, 3, 7, seed=3))
    # 3 + 3 + 1 of epoch 1 (2 skipped) | 3 of epoch 1, 3 + 1 of epoch 2 (2 skipped)
    assert [position for *_, position in big] == [StreamPosition(1, 1), StreamPosition(3, 0)]


def test_examples_of_puzzle_are_contiguous_and_shuffled() -> None:
    split = make_split([4], [4])
    orders = set()
    for rows, *_ in training_batches(split, 50, 8, seed=0):
        first, second = rows[:4], rows[4:]
        assert len(set(split.groups[first])) == len(set(split.groups[second])) == 1
        assert sorted(rows) == list(range(8))
        orders.add(tuple(first))
    assert len(orders) > 20


@given(
    shape=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=6),
    batch=st.integers(1, 9),
    epochs=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_stream_resumes_from_every_position(shape: list[list[int]], batch: int, epochs: int, seed: int) -> None:
    split = make_split(*shape)
    expected_batches = list(training_batches(split, epochs, batch, seed))
    assert all(len(rows) == batch for rows, *_ in expected_batches)
    for index, (*_, position) in enumerate(expected_batches):
        rest = list(training_batches(split, epochs, batch, seed, position))
        assert [after for *_, after in rest] == [after for *_, after in expected_batches[index + 1 :]]
        for (rows, epochs_of_rows, _), expected in zip(rest, expected_batches[index + 1 :], strict=True):
            assert np.array_equal(rows, expected[0])
            assert np.array_equal(epochs_of_rows, expected[1])


@given(
    shape=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=6),
    batch=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_packing_equals_naive_implementation(shape: list[list[int]], batch: int, seed: int) -> None:
    split = make_split(*shape)
    # Batches of size 1 contain the first example of each puzzle in the order of the epoch.
    stream: list[list[int]] = []
    for epoch in range(4):
        order = list(training_batches(split, epoch + 1, 1, seed, StreamPosition(epoch, 0)))
        groups = [int(split.groups[rows[0]]) for rows, *_ in order]
        assert sorted(groups) == list(range(len(shape)))
        for rows, *_ in order:
            puzzle = split.puzzles[rows[0]]
            stream.append([int(puzzle)] * int((split.puzzles == puzzle).sum()))
    expected, filling = [], []
    for examples in stream:
        filling += examples[: batch - len(filling)]
        if len(filling) == batch:
            expected.append(filling)
            filling = []
    got = [split.puzzles[rows].tolist() for rows, *_ in training_batches(split, 4, batch, seed)]
    assert got == expected


def test_order_depends_on_seed_and_epoch() -> None:
    split = make_split(*[[1]] * 50)
    epochs = [next(training_batches(split, 9, 50, 7, StreamPosition(epoch)))[0].tolist() for epoch in range(3)]
    other = next(training_batches(split, 9, 50, 8))[0].tolist()
    assert len({tuple(order) for order in [*epochs, other]}) == 4


def test_collate_and_test_batches() -> None:
    split = make_split([1], [1], [1])
    batch = collate(split, np.array([2, 0]))
    assert batch["inputs"].tolist() == [[4, 5], [0, 1]]
    assert batch["labels"].tolist() == [[1, 2], [IGNORE_INDEX, 1]]
    assert batch["puzzle_identifiers"].tolist() == [2, 0]
    assert all(values.dtype == np.int32 for values in batch.values())
    first, last = test_batches(split, 2)
    assert first[1] == 2
    assert last[1] == 1
    assert last[0]["inputs"].tolist() == [[4, 5], [0, 0]]
    assert last[0]["labels"].tolist() == [[1, 2], [IGNORE_INDEX, IGNORE_INDEX]]
    assert last[0]["puzzle_identifiers"].tolist() == [2, 0]
