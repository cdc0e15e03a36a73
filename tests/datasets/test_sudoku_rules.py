import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.datasets.sudoku.dataset import sudoku_meta, valid
from trm.datasets.sudoku.rules import sudoku_valid

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


def grid(text: str) -> np.ndarray:
    return np.array([[list(map(int, row)) for row in text.split()]], dtype=np.uint8)


# Written by hand. The 6x6 boxes have two rows and three columns.
SOLUTIONS = {
    4: grid("1234 3412 2143 4321"),
    6: grid("123456 456123 231564 564231 312645 645312"),
    9: grid("534678912 672195348 198342567 859761423 426853791 713924856 961537284 287419635 345286179"),
}
PUZZLE_9 = grid("530070000 600195000 098000060 800060003 400803001 700020006 060000280 000419005 000080079")


def check(question: np.ndarray, answer: np.ndarray) -> bool:
    result = sudoku_valid(question, answer, *BOXES[answer.shape[1]])
    assert result.dtype == np.bool_
    assert result.shape == (1,)
    return bool(result[0])


@pytest.mark.parametrize("size", [4, 6, 9])
def test_solutions_are_valid(size: int) -> None:
    solution = SOLUTIONS[size]
    assert check(solution, solution)
    assert check(np.zeros_like(solution), solution)
    if size == 9:
        assert check(PUZZLE_9, solution)


@pytest.mark.parametrize(
    "broken",
    [
        "1234 3412 1234 3412",  # valid rows and boxes
        "1324 1324 4231 4231",  # valid rows
        "1234 2341 3412 4123",  # Latin square: valid rows and columns
        "1133 2244 3311 4422",  # valid columns
    ],
)
def test_rows_columns_and_boxes_are_checked(broken: str) -> None:
    answer = grid(broken)
    assert not check(np.zeros_like(answer), answer)
    assert not check(np.zeros_like(answer), answer.transpose(0, 2, 1))


def test_only_rows_violated() -> None:
    # Valid columns and boxes, invalid rows.
    answer = grid("1212 3434 2121 4343").transpose(0, 2, 1)
    assert not check(np.zeros_like(answer), answer)
    answer = grid("1313 2424 3131 4242")
    assert not check(np.zeros_like(answer), answer)


def test_equal_sums_are_not_sufficient() -> None:
    fives = np.full((1, 9, 9), 5, np.uint8)  # every unit sums to 45
    assert not check(np.zeros_like(fives), fives)
    twos_and_threes = grid("2323 3232 2323 3232")  # every unit sums to 10
    assert not check(np.zeros_like(twos_and_threes), twos_and_threes)


def test_boxes_of_6x6_have_two_rows_and_three_columns() -> None:
    solution = SOLUTIONS[6]
    assert sudoku_valid(solution, solution, 2, 3).all()
    assert not sudoku_valid(solution, solution, 3, 2).any()
    transposed = solution.transpose(0, 2, 1)
    assert not sudoku_valid(transposed, transposed, 2, 3).any()
    assert sudoku_valid(transposed, transposed, 3, 2).all()


def test_clues_must_be_kept() -> None:
    solution = SOLUTIONS[9]
    relabelled = solution % 9 + 1  # another valid grid
    assert check(np.zeros_like(solution), relabelled)
    for row, column in np.argwhere(PUZZLE_9[0]):
        clue = np.zeros_like(solution)
        clue[0, row, column] = PUZZLE_9[0, row, column]
        assert check(clue, solution)
        assert not check(clue, relabelled)


@given(st.sampled_from((4, 6, 9)), st.data())
def test_changed_cell_is_invalid(size: int, data: st.DataObject) -> None:
    solution = SOLUTIONS[size]
    row, column = data.draw(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)))
    correct = int(solution[0, row, column])
    # 0 is a blank; 255 is predicted padding; size + 1 is a digit of larger Sudokus.
    wrong = data.draw(st.sampled_from([v for v in (*range(size + 2), 128, 255) if v != correct]))
    answer = solution.copy()
    answer[0, row, column] = wrong
    assert not check(np.zeros_like(answer), answer)


def test_batch_rows_are_independent() -> None:
    solution = SOLUTIONS[9]
    answers = np.concatenate([solution, PUZZLE_9, solution, solution[:, ::-1], solution[:, [1, 0, *range(2, 9)]]])
    questions = np.concatenate([PUZZLE_9, PUZZLE_9, np.zeros_like(solution), PUZZLE_9, np.zeros_like(solution)])
    assert sudoku_valid(questions, answers, 3, 3).tolist() == [True, False, True, False, True]
    assert sudoku_valid(questions[:0], answers[:0], 3, 3).tolist() == []


def test_inputs_are_not_modified() -> None:
    question, answer = PUZZLE_9.copy(), SOLUTIONS[9].copy()
    check(question, answer)
    assert (question == PUZZLE_9).all()
    assert (answer == SOLUTIONS[9]).all()


@pytest.mark.parametrize("shapes", [((1, 9, 9), (1, 4, 4)), ((1, 4, 4), (1, 9, 9)), ((1, 4, 4), (1, 4, 4))])
def test_invalid_shapes(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    question, answer = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match=r"must both have shape \[N, 9, 9\]. Got"):
        sudoku_valid(question, answer, 3, 3)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_valid_of_dataset(size: int) -> None:
    solution = SOLUTIONS[size]
    latin = ((np.arange(size)[:, None] + np.arange(size)) % size + 1).astype(np.uint8)[None]
    answers = np.concatenate([solution, latin])
    assert valid(sudoku_meta(size), list(np.zeros_like(answers)), list(answers)).tolist() == [True, False]
