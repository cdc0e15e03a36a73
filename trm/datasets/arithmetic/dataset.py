"""Addition of two numbers of k digits (docs/algorithm.md, Tokens): a puzzle is one row, `012+345=0357`.

The question has padding in place of the sum; the label is the complete row.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from trm.config.base import Natural, Positive, Section, integral_to_int
from trm.config.data import AugmentParams, DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.csv_dataset import CsvDataset, Rows, prepare_csv
from trm.data.deduplication import Equivalence
from trm.data.protocol import Augmentations, DatasetPlan, Grid
from trm.data.puzzle_csv import Layout, Mask, Puzzles, Tokens, write_puzzles
from trm.data.sources import SPLITS
from trm.utils.errors import UserError
from trm.utils.memory import check_memory, generation_announcement
from trm.utils.paths import file_digest
from trm.utils.progress import Progress, progress

FILLS_CANVAS = False  # a typed question may omit the digits of the sum
VOCABULARY = ("pad", *"0123456789", "+", "=")
UNKNOWN = "."
"""The character for a digit of the sum in the CSV question."""
_CHUNK = 65_536
"""Sums written at a time."""
BYTES_PER_SUM = 60
"""Memory of a sum while all of them are drawn."""
_TOKENS = {character: token for token, character in enumerate(VOCABULARY) if token}
_ZERO, _PLUS, _EQUALS = _TOKENS["0"], _TOKENS["+"], _TOKENS["="]
Numbers = npt.NDArray[np.int64]


class GenerateSource(Section):
    """Different random sums; a + b and b + a count as the same sum."""

    type: Literal["generate"]
    """Generate sums."""
    train_puzzles: Positive
    """Number of training sums."""
    test_puzzles: Positive
    """Number of test sums."""
    seed: Natural
    """Seed of the generator."""


class Settings(DataSection):
    """Section `data` for addition."""

    digits: Annotated[int, Field(ge=1, le=9), BeforeValidator(integral_to_int)]
    """Digits of each number (k), with leading zeros."""
    source: GenerateSource
    """Origin of the sums."""

    def max_augmentations(self) -> int:
        """1: sums have no other augmentations."""
        return 1


def source_digest(data: Settings) -> dict[str, str]:
    """Empty: the sums are generated."""
    del data
    return {}


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv. Raises `UserError` if there are not enough sums."""
    source, facts = data.source, {}
    first, second = draw_sums(data.digits, source.train_puzzles + source.test_puzzles, source.seed)
    parts = (slice(source.train_puzzles), slice(source.train_puzzles, None))
    announce = partial(generation_announcement, len(first), "sums", len(first) * BYTES_PER_SUM)
    with progress(f"generate sums of {data.digits} digits", len(first), announce=announce) as bar:
        for split, part in zip(SPLITS, parts, strict=True):
            path = out / f"{split}.csv"
            rows = _blocks(first[part], second[part], data.digits, bar)
            facts[f"{split}_puzzles"] = write_puzzles(path, rows, layout(data.digits))
            facts[f"{split}_sha256"] = file_digest(path)
    return facts


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the dataset; see `prepare_csv`. The rating is the number of carries. Raises `UserError` if `num_aug` is not
    0.
    """
    if augment.num_aug:
        raise UserError(f"augment.num_aug must be 0: sums have no augmentations. Got {augment.num_aug}")
    return prepare_csv(csv_dataset(data.digits), augment, raw)


def augmentations(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The sum itself. Raises `UserError` if k > 1 or if the tokens are not a question."""
    del rng
    if k != 1:
        raise UserError(f"evaluate.num_votes must be 1: sums have no augmentations. Got {k}")
    digits = meta.width // 3 - 1
    if _malformed(tokens[None], digits)[0]:
        text = "".join(VOCABULARY[token] if token else UNKNOWN for token in tokens.tolist()).rstrip(UNKNOWN)
        raise UserError(f"the question must be of the form {_form(digits)} ({digits} digits each). Got {text}")

    def invert(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return [answer[None] - np.uint8(1) for answer in answers]  # padding becomes 255; solutions contain none

    return Augmentations(tokens[None].copy(), invert, ["identity"])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> list[bool]:
    """Which answers state the sum of the question's numbers. Uses Python integers on the text, independent of the
    generator.
    """
    digits = meta.width // 3 - 1

    def row(grid: Grid) -> str:
        letters = VOCABULARY[1:]
        return "".join(letters[cell] if cell < len(letters) else "?" for cell in grid.ravel().tolist())

    def is_correct(question: str, answer: str) -> bool:
        operands, _, _ = question.partition("=")
        stated, _, result = answer.partition("=")
        numbers = stated.split("+")
        well_formed = len(answer) == meta.width and len(numbers) == 2 and len(result) == digits + 1
        well_formed = well_formed and all(len(number) == digits for number in numbers)
        if operands != stated or not well_formed or not all(number.isdecimal() for number in [*numbers, result]):
            return False
        return int(numbers[0]) + int(numbers[1]) == int(result)

    return [is_correct(row(question), row(answer)) for question, answer in zip(questions, answers, strict=True)]


def expected_meta(data: Settings) -> DatasetMeta:
    """The metadata of the dataset."""
    return arithmetic_meta(data.digits)


def arithmetic_meta(digits: int) -> DatasetMeta:
    """Metadata of sums: a canvas of one row with 3 k + 3 cells; one identifier."""
    return DatasetMeta(name="arithmetic", height=1, width=3 * digits + 3, vocabulary=VOCABULARY, num_identifiers=1)


def csv_dataset(digits: int) -> CsvDataset:
    """Sums as two CSV files."""

    def names(questions: Tokens) -> npt.NDArray[np.uint64]:
        a, b = _operands(questions, digits)
        return (np.maximum(a, b) * 10**digits + np.minimum(a, b)).astype(np.uint64)

    equivalence = Equivalence(names, lambda one, other: bool(names(one[None])[0] == names(other[None])[0]))
    return CsvDataset(arithmetic_meta(digits), layout(digits), _without_augmentation, equivalence)


def layout(digits: int) -> Layout:
    """Notation of sums of k digits: `12+34=...` and `12+34=046`."""

    def check(questions: Tokens, answers: Tokens) -> Iterator[tuple[Mask, str, str]]:
        remedy = "correct or remove the row"
        yield _malformed(questions, digits), f"the question is not of the form {_form(digits)}", remedy
        expected = _puzzles(*_operands(questions, digits), digits).answers
        yield (answers != expected).any(axis=1), "the answer is not the sum of the question", remedy

    allowed = (f"0 to 9, +, = and {UNKNOWN} for a digit of the sum", "0 to 9, + and =")
    return Layout(3 * digits + 3, f"data.digits is {digits}", {UNKNOWN: 0, **_TOKENS}, _TOKENS, allowed, check)


def draw_sums(digits: int, count: int, seed: int) -> tuple[Numbers, Numbers]:
    """Draw `count` different sums of two numbers of k digits: both numbers int64 [count], in random order.

    Raises `UserError` if fewer sums exist; a + b and b + a count as one.
    """
    numbers = 10**digits
    num_sums = numbers * (numbers + 1) // 2
    if count > num_sums:
        raise UserError(
            f"data.source.train_puzzles and test_puzzles: at most {num_sums} sums of {digits} digits exist, with a + b "
            f"and b + a counted once. Got {count} in total; reduce them, or increase data.digits"
        )
    check_memory(count * BYTES_PER_SUM, f"data.source: generating {count} sums")
    rng = np.random.default_rng(np.random.SeedSequence([seed, digits]))
    index = rng.choice(num_sums, count, replace=False)
    small, large = sum_from_index(index)
    exchanged = rng.random(count) < 0.5
    return np.where(exchanged, large, small), np.where(exchanged, small, large)


def sum_from_index(index: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers a <= b of the sum with index b (b + 1) / 2 + a: both int64 [N]."""
    large = ((np.sqrt(8.0 * index + 1) - 1) / 2).astype(np.int64)
    # Floating-point roots of large numbers may be off by one.
    large -= large * (large + 1) // 2 > index
    large += (large + 1) * (large + 2) // 2 <= index
    return index - large * (large + 1) // 2, large


def carries(first: Numbers, second: Numbers, digits: int) -> npt.NDArray[np.int32]:
    """Number of carries in written addition, int32 [N]."""
    count, carry = np.zeros(len(first), np.int32), np.zeros(len(first), np.int64)
    for place in range(digits):
        carry = (first // 10**place % 10 + second // 10**place % 10 + carry) // 10
        count += carry.astype(np.int32)
    return count


def _blocks(first: Numbers, second: Numbers, digits: int, bar: Progress) -> Iterator[Puzzles]:
    for start in range(0, len(first), _CHUNK):
        part = _puzzles(first[start : start + _CHUNK], second[start : start + _CHUNK], digits)
        yield part
        bar.advance(len(part))


def _puzzles(first: Numbers, second: Numbers, digits: int) -> Puzzles:
    columns = [_digits(first, digits), np.full((len(first), 1), _PLUS, np.uint8)]
    columns += [_digits(second, digits), np.full((len(first), 1), _EQUALS, np.uint8)]
    answers = np.hstack([*columns, _digits(first + second, digits + 1)])
    questions = answers.copy()
    questions[:, 2 * digits + 2 :] = 0
    return Puzzles(questions, answers, ["generated"] * len(first), carries(first, second, digits))


def _digits(numbers: Numbers, digits: int) -> Tokens:
    powers = 10 ** np.arange(digits - 1, -1, -1)
    return (numbers[:, None] // powers % 10 + _ZERO).astype(np.uint8)


def _operands(questions: Tokens, digits: int) -> tuple[Numbers, Numbers]:
    powers = 10 ** np.arange(digits - 1, -1, -1)
    values = questions.astype(np.int64) - _ZERO
    return values[:, :digits] @ powers, values[:, digits + 1 : 2 * digits + 1] @ powers


def _malformed(questions: Tokens, digits: int) -> Mask:
    """Which questions, uint8 [N, L], are not of the form `12+34=` followed by padding: bool [N]."""
    form = np.full(3 * digits + 3, _ZERO, np.uint8)
    form[digits], form[2 * digits + 1], form[2 * digits + 2 :] = _PLUS, _EQUALS, 0
    normalized = np.where((questions >= _ZERO) & (questions < _ZERO + 10), np.uint8(_ZERO), questions)
    return (normalized != form).any(axis=1)


def _form(digits: int) -> str:
    return f"{'1' * digits}+{'2' * digits}={UNKNOWN * (digits + 1)}"


def _without_augmentation(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    del groups, num_aug, seed
    return puzzles.questions, puzzles.answers


def normalize_text(text: str) -> str:
    """Remove the optional dots in place of each sum."""
    return "\n".join(line.rstrip().rstrip(".") for line in text.splitlines())


def unique_solution(grid: Grid) -> None:
    """None: sums have no solver."""
    del grid
