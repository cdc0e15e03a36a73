"""Augmentation on the fly and hints: the same draws for each example, wherever and whenever it is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.config.dataset_meta import DatasetMeta
from trm.data.batches import IGNORE_INDEX
from trm.data.online_augmentation import OnlineAugmentation, example_words, with_hints
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.maze.online import augment_examples as augment_mazes
from trm.datasets.online import get_augmentation
from trm.datasets.registry import dataset_names
from trm.datasets.sudoku.augmentation import violates_rules
from trm.datasets.sudoku.online import augment_examples as augment_sudokus

QUESTION = np.array([1, 3, 4, 1, 4, 1, 1, 1, 1, 2, 1, 1, 1, 1, 3, 2])  # 4x4: .23. 3... .1.. ..21
ANSWER = np.array([2, 3, 4, 5, 4, 5, 2, 3, 3, 2, 5, 4, 5, 4, 3, 2])
ROWS = np.arange(200)


def _batch(count: int) -> dict[str, np.ndarray]:
    arrays = {"inputs": QUESTION, "labels": ANSWER, "puzzle_identifiers": np.int32(0)}
    return {name: np.repeat(np.asarray(array, np.int32)[None], count, 0) for name, array in arrays.items()}


def _sudoku(meta: DatasetMeta, seed: int = 5, max_hints: float = 0.5) -> OnlineAugmentation:
    return OnlineAugmentation(meta, seed, augment_sudokus, (max_hints, 0.0))


@settings(deadline=None)  # the first call compiles
@given(start=st.integers(0, 199), length=st.integers(1, 50), epoch=st.integers(0, 10**6), seed=st.integers(0, 9))
def test_an_example_does_not_depend_on_its_batch(start: int, length: int, epoch: int, seed: int) -> None:
    meta = DatasetMeta(name="sudoku", height=4, width=4, vocabulary=("pad", ".", *"1234"), num_identifiers=1)
    augmentation, epochs = _sudoku(meta, seed), np.full(200, epoch)
    whole = augmentation(_batch(200), ROWS, epochs, 0.25)
    rows = ROWS[start : start + length]
    part = augmentation(_batch(len(rows)), rows, epochs[: len(rows)], 0.25)
    for name, values in part.items():
        assert np.array_equal(values, whole[name][rows])


def test_draws_differ_by_seed_epoch_row_and_stream() -> None:
    epochs = np.repeat(np.arange(20), 10)
    rows = np.tile(np.arange(10), 20)
    words = [example_words(seed, epochs, rows, stream) for seed in (0, 1) for stream in (0, 1)]
    assert len(np.unique(np.concatenate(words))) == 4 * 200


def test_augmented_sudokus_are_puzzles_of_the_same_kind(meta: DatasetMeta) -> None:
    changed = _sudoku(meta, max_hints=0)(_batch(200), ROWS, np.zeros(200, np.int64), 0.0)
    inputs, labels = changed["inputs"], changed["labels"]
    assert not violates_rules((labels - 1).astype(np.uint8).reshape(-1, 4, 4)).any()
    assert ((inputs == 1) | (inputs == labels)).all()
    assert ((inputs != 1).sum(1) == (QUESTION != 1).sum()).all()
    assert len(np.unique(labels, axis=0)) > 50


def test_augmented_mazes_are_the_eight_symmetries() -> None:
    """A corner with S, G to its right, and the path below S: eight different pictures."""
    question, answer = np.full((2, 16), 3, np.uint8)
    question[[0, 3]], answer[[0, 3, 4]] = (4, 5), (4, 5, 6)
    inputs, labels = augment_mazes(
        maze_meta(4),
        np.repeat(question[None], 400, 0),
        np.repeat(answer[None], 400, 0),
        example_words(0, ROWS, ROWS, 0).repeat(2),
    )
    pictures, counts = np.unique(labels, axis=0, return_counts=True)
    assert len(pictures) == 8
    assert counts.min() > 20
    assert (np.where(labels == 6, 3, labels) == inputs).all()  # the same symmetry for question and answer


def test_hints_come_from_the_answer_in_the_share_that_is_asked_for() -> None:
    inputs, labels = np.ones((4000, 20), np.int32), np.full((4000, 20), 7, np.int32)
    labels[:, :5] = IGNORE_INDEX
    changed = with_hints(inputs, labels, example_words(0, np.zeros(4000, np.int64), np.arange(4000), 1), 0.4)
    assert (changed[:, :5] == 1).all()
    given_cells = changed[:, 5:] == 7
    assert (given_cells | (changed[:, 5:] == 1)).all()
    shares = given_cells.mean(1)
    assert shares.mean() == pytest.approx(0.2, abs=0.01)  # uniform from 0 to 0.4
    assert np.quantile(shares, 0.95) == pytest.approx(0.46, abs=0.08)
    assert given_cells.mean(0) == pytest.approx(np.full(15, 0.2), abs=0.03)


@pytest.mark.parametrize("max_hints", [(1.0, 0.0), (0.6, 0.6), (0.0, 0.8)])
def test_hints_change_linearly(meta: DatasetMeta, max_hints: tuple[float, float]) -> None:
    augmentation = OnlineAugmentation(meta, 0, None, max_hints)
    blanks = (QUESTION == 1).sum()
    for progress, expected in ((0.0, max_hints[0]), (0.5, sum(max_hints) / 2), (1.0, max_hints[1])):
        changed = augmentation(_batch(200), ROWS, np.zeros(200, np.int64), progress)
        cells = (changed["inputs"] != 1).sum(1) - (QUESTION != 1).sum()
        assert (cells / blanks).mean() == pytest.approx(expected / 2, abs=0.04)
        assert cells.any() == (expected > 0)


def test_ignored_cells_stay_ignored(meta: DatasetMeta) -> None:
    batch = _batch(50)
    batch["labels"][:, 3] = IGNORE_INDEX
    batch["inputs"][:, 3] = 1
    changed = OnlineAugmentation(meta, 0, augment_mazes, (0.0, 0.0))(batch, ROWS[:50], np.zeros(50, np.int64), 0.0)
    assert ((changed["labels"] == IGNORE_INDEX).sum(1) == 1).all()


def test_datasets_with_an_augmentation() -> None:
    found = {name: get_augmentation(maze_meta(4).model_copy(update={"name": name})) for name in dataset_names()}
    expected = {"sudoku": augment_sudokus, "maze": augment_mazes}
    assert found == {**dict.fromkeys(found, None), **expected}
