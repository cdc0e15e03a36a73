from pathlib import Path

import numpy as np
import pytest

from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.data.parquet import Split, read_meta, read_split
from trm.data.puzzle_csv import concatenate, read_puzzles
from trm.datasets.arithmetic import dataset as arithmetic
from trm.datasets.augment import augment
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError, UserError

NONE = AugmentParams(num_aug=0, validation_groups=0, seed=0)


def settings_of(digits: int, train: int, test: int, seed: int = 0) -> arithmetic.Settings:
    source = {"type": "generate", "train_puzzles": train, "test_puzzles": test, "seed": seed}
    return parse(arithmetic.Settings, {"name": "arithmetic", "digits": digits, "source": source}, "params.yaml")


def texts(tokens: np.ndarray) -> list[str]:
    return ["".join(" 0123456789+="[token] for token in row) for row in tokens]


def dataset(folder: Path, data: arithmetic.Settings, params: AugmentParams = NONE) -> dict[str, Split]:
    (folder / "raw").mkdir(parents=True)
    arithmetic.fetch(data, folder / "raw")
    augment(data, params, folder / "raw", folder, "key")
    names = ["train", "validation", "test"] if params.validation_groups else ["train", "test"]
    return {name: read_split(folder / name) for name in names}


def test_registry() -> None:
    assert get_dataset("arithmetic") is arithmetic
    assert arithmetic.source_digest(settings_of(1, 1, 1)) == {}
    with pytest.raises(UserError, match=r"^params.yaml: digits must be less than or equal to 9. Got 10$"):
        settings_of(10, 1, 1)


def test_examples(tmp_path: Path) -> None:
    splits = dataset(tmp_path, settings_of(3, 400, 100))
    meta = read_meta(tmp_path)
    assert (meta.height, meta.width, meta.vocab_size, meta.num_identifiers) == (1, 12, 13, 1)
    assert meta.vocabulary == ("pad", *"0123456789", "+", "=")
    assert splits["train"].counts() == {"groups": 400, "puzzles": 400, "examples": 400}
    assert splits["test"].counts() == {"groups": 100, "puzzles": 100, "examples": 100}
    for split in splits.values():
        for question, answer in zip(texts(split.inputs[:]), texts(split.labels[:]), strict=True):
            assert question == answer[:8] + "    "
            assert answer[3] == "+"
            assert answer[7] == "="
            assert int(answer[:3]) + int(answer[4:7]) == int(answer[8:])
        assert len(set(split.groups.tolist())) == len(split)


def test_csv_file(tmp_path: Path) -> None:
    arithmetic.fetch(settings_of(2, 3, 1), tmp_path)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    assert lines[0] == "source,question,answer,rating"
    source, question, answer, _ = lines[1].split(",")
    assert source == "generated"
    assert question[6:] == "..."
    assert question[:6] == answer[:6]


def test_splits_are_disjoint_up_to_order(tmp_path: Path) -> None:
    # All 55 sums of one digit occur exactly once.
    splits = dataset(tmp_path, settings_of(1, 40, 15))
    pairs = {name: {frozenset((row[0], row[2])) for row in texts(split.labels[:])} for name, split in splits.items()}
    assert len(pairs["train"]) == 40
    assert len(pairs["test"]) == 15
    assert not pairs["train"] & pairs["test"]
    orders = {row[0] < row[2] for row in texts(splits["train"].labels[:]) if row[0] != row[2]}
    assert orders == {True, False}


def test_too_many_sums() -> None:
    with pytest.raises(UserError, match=r"^data.source.train_puzzles and test_puzzles: at most 55 sums .* Got 56 "):
        arithmetic.draw_sums(1, 56, 0)


def test_sum_from_index_is_exact() -> None:
    assert [tuple(map(int, pair)) for pair in zip(*arithmetic.sum_from_index(np.arange(6)), strict=True)] == [
        (0, 0),
        (0, 1),
        (1, 1),
        (0, 2),
        (1, 2),
        (2, 2),
    ]
    large = 10**9 - np.arange(1, 200_000, dtype=np.int64)
    for small in (np.zeros_like(large), large):  # next to a change of the larger number
        found = arithmetic.sum_from_index(large * (large + 1) // 2 + small)
        assert np.array_equal(found[0], small)
        assert np.array_equal(found[1], large)


def test_exchanged_operands_are_leakage(tmp_path: Path) -> None:
    header = "source,question,answer,rating\n"
    (tmp_path / "train.csv").write_text(f"{header}g,34+12=...,34+12=046,0\n")
    (tmp_path / "test.csv").write_text(f"{header}g,00+00=...,00+00=000,0\ng,12+34=...,12+34=046,0\n")
    with pytest.raises(DataError, match=r"test.csv, line 3: .*train.csv, line 2;"):
        arithmetic.prepare(settings_of(2, 1, 2), NONE, tmp_path)


@pytest.mark.parametrize("digits", [2, 5, 9])
def test_draw_sums(digits: int) -> None:
    first, second = arithmetic.draw_sums(digits, 3000, 1)
    again, other = arithmetic.draw_sums(digits, 3000, 1), arithmetic.draw_sums(digits, 3000, 2)
    assert np.array_equal(first, again[0])
    assert np.array_equal(second, again[1])
    assert not np.array_equal(first, other[0])
    pairs = {(min(a, b), max(a, b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(pairs) == 3000
    for numbers in (first, second):
        assert numbers.min() >= 0
        assert 0.9 * 10**digits < numbers.max() < 10**digits
        assert 0.45 < numbers.mean() / 10**digits < 0.55


def test_rating_is_number_of_carries(tmp_path: Path) -> None:
    first, second = np.array([0, 999, 555, 190, 123, 5]), np.array([0, 1, 555, 210, 456, 95])
    assert arithmetic.carries(first, second, 3).tolist() == [0, 3, 3, 1, 0, 2]
    train = dataset(tmp_path, settings_of(2, 100, 5))["train"]
    rows = texts(train.labels[:])
    expected = [int(int(r[1]) + int(r[4]) > 9) + int(int(r[:2]) + int(r[3:5]) > 99) for r in rows]
    assert train.ratings.tolist() == expected


def test_validation_groups(tmp_path: Path) -> None:
    splits = dataset(tmp_path, settings_of(2, 100, 5), AugmentParams(num_aug=0, validation_groups=10, seed=0))
    assert len(splits["train"]) == 90
    assert len(splits["validation"]) == 10


def test_no_augmentations(tmp_path: Path) -> None:
    data = settings_of(2, 10, 5)
    arithmetic.fetch(data, tmp_path)
    with pytest.raises(UserError, match=r"^augment.num_aug must be 0: .* Got 1$"):
        arithmetic.prepare(data, AugmentParams(num_aug=1, validation_groups=0, seed=0), tmp_path)
    tokens, rng = np.ones(9, np.uint8), np.random.default_rng(0)
    with pytest.raises(UserError, match=r"^evaluate.num_votes must be 1: .* Got 2$"):
        arithmetic.augmentations(arithmetic.arithmetic_meta(2), tokens, rng, 2)


def test_invert_returns_cells() -> None:
    tokens = np.array([2, 3, 11, 4, 5, 12, 0, 0, 0], np.uint8)  # 12+34=
    augmentations = arithmetic.augmentations(arithmetic.arithmetic_meta(2), tokens, np.random.default_rng(0), 1)
    assert np.array_equal(augmentations.tokens, tokens[None])
    (grid,) = augmentations.invert(np.array([[2, 3, 11, 4, 5, 12, 1, 5, 0]], np.uint8))  # 12+34=04 and padding
    assert grid.tolist() == [[1, 2, 10, 3, 4, 11, 0, 4, 255]]


@pytest.mark.parametrize(
    "question", ["1+2=", "12+34", "99", "12+34=046", "12=34+", "1+234=", "12.34=", "12+34=..6", ""]
)
def test_invalid_questions(question: str) -> None:
    tokens = np.array([".0123456789+=".index(c) for c in question.ljust(9, ".")], np.uint8)
    with pytest.raises(UserError) as caught:
        arithmetic.augmentations(arithmetic.arithmetic_meta(2), tokens, np.random.default_rng(0), 1)
    assert str(caught.value) == f"the question must be of the form 11+22=... (2 digits each). Got {question}"


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("12+34=   ", "12+34=046", True),
        ("95+05=   ", "95+05=100", True),
        ("12+34=   ", "12+34=047", False),
        ("12+34=   ", "12+34=46 ", False),
        ("12+34=   ", "12+34= 46", False),
        ("12+34=   ", "11+35=046", False),  # correct, but another question
        ("12+34=   ", "12+34=0+6", False),
        ("12+34=   ", "12+34=+46", False),
        ("12+34=   ", "12+34=04=", False),
        ("12+34=   ", "12=34=046", False),
        ("12+34=   ", "         ", False),
        ("12+34=", "12+34=046", True),  # a question without its padding
    ],
)
def test_valid_sums(question: str, answer: str, expected: bool) -> None:
    def grid(text: str) -> np.ndarray:
        return np.array([["0123456789+=".find(c) % 256 for c in text]], np.uint8)

    assert list(arithmetic.valid(arithmetic.arithmetic_meta(2), [grid(question)], [grid(answer)])) == [expected]


def test_damaged_file(tmp_path: Path) -> None:
    arithmetic.fetch(settings_of(2, 3, 1), tmp_path)
    path = tmp_path / "train.csv"
    for row, problem in {
        "g,12+34=...,12+34=047,0": "the answer is not the sum of the question",
        "g,12+34=...,12+34=0.6,0": "answer contains '.' at cell 8",
        "g,12-34=...,12+34=046,0": "question contains '-' at cell 3",
        "g,12+34=0..,12+34=046,0": r"the question is not of the form 11\+22=\.\.\.",
        "g,1+234=...,1+234=235,0": "the question is not of the form",
        "g,12+34=..,12+34=46,0": r"question must have 9 characters \(data.digits is 2\). Got 8",
    }.items():
        path.write_text(f"source,question,answer,rating\ng,00+00=...,00+00=000,0\n{row}\n")
        with pytest.raises(DataError, match=rf"train.csv, line 3: .*{problem}"):
            concatenate(read_puzzles(path, arithmetic.layout(2)))
