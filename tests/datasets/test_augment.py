import copy
from pathlib import Path

import numpy as np
import pytest

from tests.sudokus import digits, grid_classes, of_digits, sudoku, write
from trm.config.data import AugmentParams
from trm.data import csv_dataset, puzzle_csv
from trm.data.parquet import read_counts, read_lineage, read_meta, read_split
from trm.data.puzzle_csv import Puzzles
from trm.datasets.augment import augment
from trm.datasets.sudoku.augmentation import draw_transforms, violates_rules
from trm.datasets.sudoku.dataset import layout, sudoku_meta
from trm.datasets.sudoku.equivalence import are_equivalent
from trm.datasets.sudoku.generator import generate_puzzles
from trm.utils.errors import DataError, UserError


def params(num_aug: int = 3, validation_groups: int = 0, seed: int = 0) -> AugmentParams:
    return AugmentParams(num_aug=num_aug, validation_groups=validation_groups, seed=seed)


def write_raw(folder: Path, train: Puzzles, test: Puzzles) -> Path:
    folder.mkdir()
    write(folder / "train.csv", train, 9)
    write(folder / "test.csv", test, 9)
    return folder


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return generate_puzzles(9, 30, "minimal", 0, False)


@pytest.fixture
def raw(tmp_path: Path, puzzles: Puzzles) -> Path:
    return write_raw(tmp_path / "raw", puzzles.select(slice(20)), puzzles.select(slice(20, None)))


def test_dataset(tmp_path: Path, raw: Path, puzzles: Puzzles) -> None:
    out = new(tmp_path / "out")
    facts = augment(sudoku(9), params(num_aug=3, validation_groups=4), raw, out, "the-key")
    assert facts == {"splits": read_counts(out)}
    assert read_counts(out) == {
        "train": {"groups": 16, "puzzles": 64, "examples": 64},
        "validation": {"groups": 4, "puzzles": 4, "examples": 4},
        "test": {"groups": 10, "puzzles": 10, "examples": 10},
    }
    assert read_meta(out) == sudoku_meta(9)
    train, validation, test = (read_split(out / split) for split in read_counts(out))
    assert sorted([*train.groups[::4], *validation.groups]) == list(range(20))
    assert train.puzzles.tolist() == list(range(64))
    assert set(train.identifiers) == {0}
    assert np.array_equal(train.ratings, puzzles.ratings[train.groups])
    assert set(train.sources) == {"generated"}
    for split, base in ((train, 0), (validation, 0), (test, 20)):
        plain = split.puzzle_starts[split.group_starts[:-1]]
        assert np.array_equal(split.inputs[plain], puzzles.questions[base + split.groups[plain]])
        assert np.array_equal(split.labels[plain], puzzles.answers[base + split.groups[plain]])
        assert not violates_rules(digits(split.labels[:])).any()
        assert ((split.inputs[:] == 1) | (split.inputs[:] == split.labels[:])).all()
    for row in range(64):
        assert are_equivalent(digits(train.inputs[:])[row], digits(puzzles.questions)[train.groups[row]])
    assert len(np.unique(train.inputs[:], axis=0)) == 64
    lineage = read_lineage(out / "train")
    assert lineage["key"] == "the-key"
    assert lineage["augment"] == {"num_aug": 3, "validation_groups": 4, "seed": 0}
    assert len(lineage["raw"]["train.csv"]) == 64


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_bytes_are_independent_of_workers_and_blocks(
    tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_dataset, "BLOCK_SIZE", 20)
    for workers in ("1", "3"):
        monkeypatch.setenv("TRM_WORKERS", workers)
        augment(sudoku(9), params(12, 2), raw, new(tmp_path / workers), "k")
    assert content(tmp_path / "1") == content(tmp_path / "3")
    monkeypatch.undo()  # the default block size
    augment(sudoku(9), params(12, 2), raw, new(tmp_path / "whole"), "k")
    assert content(tmp_path / "1") == content(tmp_path / "whole")
    monkeypatch.setattr(puzzle_csv, "BATCH_CHARACTERS", 1000)  # about five puzzles per part
    assert len(list(puzzle_csv.read_puzzles(raw / "train.csv", layout(9)))) > 3
    augment(sudoku(9), params(12, 2), raw, new(tmp_path / "parts"), "k")
    assert content(tmp_path / "1") == content(tmp_path / "parts")
    augment(sudoku(9), params(12, 2, seed=1), raw, new(tmp_path / "other"), "k")
    assert not np.array_equal(
        read_split(tmp_path / "1/train").inputs[1::13], read_split(tmp_path / "other/train").inputs[1::13]
    )


def test_leakage(tmp_path: Path, puzzles: Puzzles) -> None:
    puzzles = copy.deepcopy(puzzles)
    train, test = puzzles.select(slice(20)), puzzles.select(slice(20, None))
    transform = draw_transforms(np.random.default_rng(4), 9, 1)
    for mine, theirs in ((test.questions, train.questions), (test.answers, train.answers)):
        mine[6] = transform.apply(digits(theirs)[11]).ravel() + 1
    raw = write_raw(tmp_path / "raw", train, test)
    message = (
        rf"^{raw}/test.csv, line 8: the puzzle is equivalent to the training puzzle in {raw}/train.csv, line 13; "
        r"remove .*data.allow_leakage: true$"
    )
    with pytest.raises(DataError, match=message):
        augment(sudoku(9), params(), raw, new(tmp_path / "out"), "k")
    test.questions[2], test.answers[2] = train.questions[0], train.answers[0]
    raw = write_raw(tmp_path / "raw2", train, test)
    with pytest.raises(DataError, match=r"test.csv, line 4: .* line 2 \(and 1 more test puzzles\); "):
        augment(sudoku(9), params(), raw, new(tmp_path / "out2"), "k")
    augment(sudoku(9, allow_leakage=True), params(), raw, new(tmp_path / "out3"), "k")


def test_equivalent_training_puzzles_stay_in_one_split(tmp_path: Path, puzzles: Puzzles) -> None:
    transforms = draw_transforms(np.random.default_rng(0), 9, 16)
    base = np.arange(16) // 4 % 4  # four classes of four
    pair = (transforms.apply(digits(puzzles.questions)[base]), transforms.apply(digits(puzzles.answers)[base]))
    train = of_digits(*pair, "s", puzzles.ratings[base])
    raw = write_raw(tmp_path / "raw", train, puzzles.select(slice(20, None)))
    for seed in range(5):
        out = new(tmp_path / f"out{seed}")
        augment(sudoku(9), params(1, 8, seed), raw, out, "k")
        held = read_split(out / "validation").groups
        assert len(held) == 8
        names = grid_classes(digits(train.questions))
        assert not set(names[held]) & set(np.delete(names, held))
    with pytest.raises(UserError, match=r"^augment.validation_groups: 7 groups cannot .* set it to 4"):
        augment(sudoku(9), params(1, 7), raw, new(tmp_path / "bad"), "k")


def test_too_many_validation_groups(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(
        UserError, match=r"^augment.validation_groups must be below 20, the number of training groups. Got 20"
    ):
        augment(sudoku(9), params(1, 20), raw, new(tmp_path / "bad"), "k")
    augment(sudoku(9), params(1, 19), raw, new(tmp_path / "good"), "k")


def test_without_augmentation(tmp_path: Path, raw: Path, puzzles: Puzzles) -> None:
    augment(sudoku(9), params(0), raw, new(tmp_path / "out"), "k")
    assert np.array_equal(read_split(tmp_path / "out/train").inputs[:], puzzles.questions[:20])


@pytest.mark.parametrize("workers", ["0", "many", "-1"])
def test_invalid_workers(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("TRM_WORKERS", workers)
    with pytest.raises(UserError, match=rf"TRM_WORKERS must be a positive number of threads. Got '{workers}'"):
        augment(sudoku(9), params(), raw, new(tmp_path / "out"), "k")


@pytest.mark.slow
def test_real_puzzles(tmp_path: Path, shared_data: Path) -> None:
    raw = new(tmp_path / "raw")
    (raw / "train.csv").write_bytes((shared_data / "sudoku-extreme/train.csv").read_bytes())
    (raw / "test.csv").write_bytes((shared_data / "sudoku-tdoku-hard/test.csv").read_bytes())
    augment(sudoku(9), params(100, 100), raw, new(tmp_path / "out"), "k")
    train = read_split(tmp_path / "out/train")
    assert train.counts() == {"groups": 900, "puzzles": 90_900, "examples": 90_900}
    assert not violates_rules(digits(train.labels[:])).any()
    assert ((train.inputs[:] == 1) | (train.inputs[:] == train.labels[:])).all()
