"""Sums of two numbers of k digits (spec section 1): one row, `012+345=0357`, made here.

The question is the row with padding in the places of the sum, the label is the whole row.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from trm.config.data import AugmentParams, DataSection
from trm.config.base import Natural, Positive
from trm.data.protocol import Grid, Prepared, Augmentations
from trm.data.puzzle_csv import Bad, Layout, Puzzles, Tokens, write_puzzles
from trm.data.sources import SPLITS
from trm.data.csv_dataset import Rows, Table, prepare_table
from trm.data.deduplication import Equivalence
from trm.utils.errors import UserError
from trm.utils.paths import file_digest
from trm.config.dataset_meta import DatasetMeta
from trm.utils.progress import Progress, progress
from trm.config.base import Section, whole

FILLS_CANVAS = False  # a question may be typed without the places of its sum
VOCABULARY = ("pad", *"0123456789", "+", "=")
UNKNOWN = "."
"""How the places of the sum are written in a question."""
_CHUNK = 65_536
"""Sums written at a time."""
_TOKENS = {character: token for token, character in enumerate(VOCABULARY) if token}
_ZERO, _PLUS, _EQUALS = _TOKENS["0"], _TOKENS["+"], _TOKENS["="]
Numbers = npt.NDArray[np.int64]


class GenerateSource(Section):
    """Sums drawn at random, none of them twice; a + b and b + a are the same sum."""

    type: Literal["generate"]
    train_puzzles: Positive
    test_puzzles: Positive
    seed: Natural


class Settings(DataSection):
    """Section `data` of an experiment with sums."""

    digits: Annotated[int, Field(ge=1, le=9), BeforeValidator(whole)]
    """Digits of each number (k), with zeros in front."""
    source: GenerateSource

    def most_versions(self) -> int:
        """The sum itself."""
        return 1


def source_digest(data: Settings) -> dict[str, str]:
    """Nothing: the sums are made here."""
    del data
    return {}


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv. Raises `UserError` where there are not so many sums."""
    source, facts = data.source, {}
    first, second = draw_sums(data.digits, source.train_puzzles + source.test_puzzles, source.seed)
    parts = (slice(source.train_puzzles), slice(source.train_puzzles, None))
    with progress(f"generate sums of {data.digits} digits", len(first)) as shown:
        for split, part in zip(SPLITS, parts, strict=True):
            path = out / f"{split}.csv"
            rows = _written(first[part], second[part], data.digits, shown)
            facts[f"{split}_puzzles"] = write_puzzles(path, rows, layout(data.digits))
            facts[f"{split}_sha256"] = file_digest(path)
    return facts


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the data set; see `prepare_table`. The rating of a sum is its carries. There are no versions to make."""
    if augment.num_aug:
        raise UserError(f"augment.num_aug must be 0: a sum has no versions. Got {augment.num_aug}")
    return prepare_table(table(data.digits), augment, raw)


def versions(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The sum itself. Raises `UserError` for any more, and for what is no question of a sum."""
    del rng
    if k != 1:
        raise UserError(f"evaluate.num_votes must be 1: a sum has no versions that could vote. Got {k}")
    digits = meta.width // 3 - 1
    if _malformed(tokens[None], digits)[0]:
        asked = "".join(VOCABULARY[token] if token else UNKNOWN for token in tokens.tolist()).rstrip(UNKNOWN)
        raise UserError(f"the question must be of the form {_form(digits)} ({digits} digits each). Got {asked}")

    def undo(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return [answer[None] - np.uint8(1) for answer in answers]  # padding, which no answer holds, becomes 255

    return Augmentations(tokens[None].copy(), undo, ["as it is"])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> list[bool]:
    """Which answers state a true sum of the question's two numbers. Checked as text, by Python's own numbers."""
    digits = meta.width // 3 - 1

    def row(grid: Grid) -> str:
        letters = VOCABULARY[1:]
        return "".join(letters[cell] if cell < len(letters) else "?" for cell in grid.ravel().tolist())

    def right(question: str, answer: str) -> bool:
        asked, _, _ = question.partition("=")
        stated, _, result = answer.partition("=")
        numbers = stated.split("+")
        known = len(answer) == meta.width and len(numbers) == 2 and len(result) == digits + 1
        known = known and all(len(number) == digits for number in numbers)
        if asked != stated or not known or not all(number.isdecimal() for number in [*numbers, result]):
            return False
        return int(numbers[0]) + int(numbers[1]) == int(result)

    return [right(row(question), row(answer)) for question, answer in zip(questions, answers, strict=True)]


def expected_meta(data: Settings) -> DatasetMeta:
    """What the data set will say of itself."""
    return arithmetic_meta(data.digits)


def arithmetic_meta(digits: int) -> DatasetMeta:
    """What a data set of sums says of itself: a canvas of one row, 3 k + 3 places; one identifier."""
    return DatasetMeta(name="arithmetic", height=1, width=3 * digits + 3, vocabulary=VOCABULARY, num_identifiers=1)


def table(digits: int) -> Table:
    """Sums as two CSV files."""

    def names(questions: Tokens) -> npt.NDArray[np.uint64]:
        a, b = _operands(questions, digits)
        return (np.maximum(a, b) * 10**digits + np.minimum(a, b)).astype(np.uint64)

    equivalence = Equivalence(names, lambda one, other: bool(names(one[None])[0] == names(other[None])[0]))
    return Table(arithmetic_meta(digits), layout(digits), _as_they_are, equivalence)


def layout(digits: int) -> Layout:
    """How sums of k digits are written: `12+34=...` and `12+34=046`."""

    def check(questions: Tokens, answers: Tokens) -> Iterator[tuple[Bad, str, str]]:
        remedy = "correct or remove the row"
        yield _malformed(questions, digits), f"the question is not of the form {_form(digits)}", remedy
        expected = _puzzles(*_operands(questions, digits), digits).answers
        yield (answers != expected).any(axis=1), "the answer is not the question's sum", remedy

    words = (f"0 to 9, +, = and {UNKNOWN} for a place of the sum", "0 to 9, + and =")
    return Layout(3 * digits + 3, f"data.digits is {digits}", {UNKNOWN: 0, **_TOKENS}, _TOKENS, words, check)


def draw_sums(digits: int, count: int, seed: int) -> tuple[Numbers, Numbers]:
    """`count` different sums of two numbers of k digits: both int64 [count]. Raises `UserError` for too many.

    a + b and b + a are one sum, drawn in either order.
    """
    numbers = 10**digits
    there_are = numbers * (numbers + 1) // 2
    if count > there_are:
        raise UserError(
            f"data.source.train_puzzles and test_puzzles: there are {there_are} sums of {digits} digits, a + b and "
            f"b + a counted once. Got {count} together; ask for fewer, or raise data.digits"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, digits]))
    index = rng.choice(there_are, count, replace=False)
    small, large = numbered(index)
    swapped = rng.random(count) < 0.5
    return np.where(swapped, large, small), np.where(swapped, small, large)


def numbered(index: Numbers) -> tuple[Numbers, Numbers]:
    """The two numbers of sum number i = b (b + 1) / 2 + a, where a <= b: a and b, both int64 [N]."""
    large = ((np.sqrt(8.0 * index + 1) - 1) / 2).astype(np.int64)
    # The root of a large number may be one off.
    large -= large * (large + 1) // 2 > index
    large += (large + 1) * (large + 2) // 2 <= index
    return index - large * (large + 1) // 2, large


def carries(first: Numbers, second: Numbers, digits: int) -> npt.NDArray[np.int32]:
    """How often a digit is carried when the two are added by hand, int32 [N]."""
    count, carry = np.zeros(len(first), np.int32), np.zeros(len(first), np.int64)
    for place in range(digits):
        carry = (first // 10**place % 10 + second // 10**place % 10 + carry) // 10
        count += carry.astype(np.int32)
    return count


def _written(first: Numbers, second: Numbers, digits: int, shown: Progress) -> Iterator[Puzzles]:
    for start in range(0, len(first), _CHUNK):
        part = _puzzles(first[start : start + _CHUNK], second[start : start + _CHUNK], digits)
        yield part
        shown.advance(len(part))


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


def _malformed(questions: Tokens, digits: int) -> Bad:
    """Which questions uint8 [N, L] are not two numbers of k digits, a plus, an equals sign and empty places."""
    form = np.full(3 * digits + 3, _ZERO, np.uint8)
    form[digits], form[2 * digits + 1], form[2 * digits + 2 :] = _PLUS, _EQUALS, 0
    seen = np.where((questions >= _ZERO) & (questions < _ZERO + 10), np.uint8(_ZERO), questions)
    return (seen != form).any(axis=1)


def _form(digits: int) -> str:
    return f"{'1' * digits}+{'2' * digits}={UNKNOWN * (digits + 1)}"


def _as_they_are(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    del groups, num_aug, seed
    return puzzles.questions, puzzles.answers
