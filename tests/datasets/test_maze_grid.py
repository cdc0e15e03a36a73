from pathlib import Path

import numpy as np
import pytest

from trm.data.symmetries import apply_symmetry
from trm.datasets.maze.grid import CHARACTERS, Mazes, are_equivalent, check_mazes, fingerprints, label_mazes
from trm.datasets.maze.rules import maze_valid


def mazes(*texts: str) -> Mazes:
    """Parse mazes; `/` separates the rows."""
    return np.array([[[CHARACTERS.index(c) for c in row] for row in text.split("/")] for text in texts], np.uint8)


QUESTION = "S  /#  /#G "
ANSWER = "So /#o /#G "


@pytest.fixture(scope="module")
def maze_hard(shared_data: Path) -> tuple[Mazes, Mazes, np.ndarray]:
    """All 1,800 published mazes: questions, answers, moves."""
    rows = []
    for name in ("train", "test"):
        text = (shared_data / "maze-30x30-hard-1k" / f"{name}.csv").read_text(encoding="utf-8")
        rows += [line.split(",") for line in text.splitlines()[1:]]
    cells = np.array([[[CHARACTERS.index(c) for c in row[column]] for row in rows] for column in (1, 2)], np.uint8)
    questions, answers = cells.reshape(2, len(rows), 30, 30)
    return questions, answers, np.array([int(row[3]) for row in rows])


def problems(questions: Mazes, answers: Mazes) -> list[str]:
    return [problem for bad, problem, _ in check_mazes(questions, answers) if bad.any()]


def test_labels_equal_published_labels(maze_hard: tuple[Mazes, Mazes, np.ndarray]) -> None:
    questions, answers, moves = maze_hard
    assert len(questions) == 1800
    labelled, counted = label_mazes(questions)
    assert np.array_equal(labelled, answers)
    assert np.array_equal(counted, moves)
    assert problems(questions, answers) == []


def test_published_mazes_are_valid_under_symmetries(maze_hard: tuple[Mazes, Mazes, np.ndarray]) -> None:
    questions, answers, _ = maze_hard
    for symmetry in range(8):
        assert maze_valid(apply_symmetry(questions, symmetry), apply_symmetry(answers, symmetry)).all()
    assert not maze_valid(questions, np.roll(answers, 1, axis=0)).any()
    assert not maze_valid(questions, questions).any()


def test_labels_are_not_invariant_under_rotation(maze_hard: tuple[Mazes, Mazes, np.ndarray]) -> None:
    # The order down, left, right, up is not invariant under rotation.
    questions, answers, _ = maze_hard
    rotated = label_mazes(apply_symmetry(questions[:50], 1))[0]
    assert not np.array_equal(rotated, apply_symmetry(answers[:50], 1))
    assert maze_valid(apply_symmetry(questions[:50], 1), rotated).all()


def test_published_mazes_are_distinct(maze_hard: tuple[Mazes, Mazes, np.ndarray]) -> None:
    assert len(np.unique(fingerprints(maze_hard[0]))) == 1800


def test_neighbor_order_worked_by_hand() -> None:
    # Worked by hand: down before left, right and up; left before up; right before up.
    questions = mazes(QUESTION, "S  /   /  G", "G  /   /  S", "  S/   /G  ", "  G/   /S  ", "   / GS/   ")
    answers, moves = label_mazes(questions)
    assert np.array_equal(
        answers, mazes(ANSWER, "S  /o  /ooG", "G  /o  /ooS", "  S/  o/Goo", "  G/  o/Soo", "   / GS/   ")
    )
    assert moves.tolist() == [3, 4, 4, 4, 4, 1]


def test_rectangular_maze() -> None:
    answers, moves = label_mazes(mazes("S#G  / #   /     "))
    assert np.array_equal(answers, mazes("S#G  /o#o  /ooo  "))
    assert moves.tolist() == [6]


@pytest.mark.parametrize("text", ["S# /## /  G", "S  /   /   ", "S S/   /  G", "S  /G  /  G", "   /   /  G"])
def test_mazes_without_path(text: str) -> None:
    question = mazes(text)
    answer, moves = label_mazes(question)
    assert moves.tolist() == [-1]
    assert np.array_equal(answer, question)
    assert not maze_valid(question, question)[0]
    assert problems(question, question)


BROKEN = {
    ("S S/   /  G", "S S/oo /  G"): "exactly one S",
    ("S  /   /   ", "So /   /   "): "exactly one G",
    ("So /   /  G", "Soo/  o/  G"): "the question contains o",
    (QUESTION, "Soo/# o/#Go"): "not a shortest one",
    (QUESTION, "So /#o /#Go"): "not a shortest one",  # an additional cell o
    (QUESTION, "So / o /#G "): "differs from the question",  # a wall was removed
    (QUESTION, "So /oo /#G "): "differs from the question",  # the path crosses a wall
    (QUESTION, "oo /#o /#G "): "differs from the question",  # S was removed
    (QUESTION, "So /#o /#S "): "differs from the question",
    (QUESTION, "So#/#o /#G "): "differs from the question",  # a wall was added
    (QUESTION, "S  /#  /#G "): "do not connect",
    (QUESTION, "So /#  /#Go"): "do not connect",
    ("S# /## /  G", "S# /## / oG"): "no path from S to G",
}


@pytest.mark.parametrize(("pair", "problem"), BROKEN.items())
def test_invalid_labels(pair: tuple[str, str], problem: str) -> None:
    question, answer = mazes(pair[0]), mazes(pair[1])
    assert problem in problems(question, answer)[0]
    assert not maze_valid(question, answer)[0]


def test_any_shortest_path_is_accepted() -> None:
    questions, answers = mazes("S  /   /  G", "S  /   /  G"), mazes("Soo/  o/  G", "So / oo/  G")
    assert problems(questions, answers) == []
    assert maze_valid(questions, answers).tolist() == [True, True]


def test_check_reports_invalid_row() -> None:
    questions, answers = mazes(QUESTION, QUESTION, QUESTION), mazes(ANSWER, "Soo/# o/#Go", ANSWER)
    found = [bad.tolist() for bad, _, _ in check_mazes(questions, answers) if bad.any()]
    assert found == [[False, True, False]]
    assert maze_valid(questions, answers).tolist() == [True, False, True]


def test_invalid_cells_and_shapes() -> None:
    question, answer = mazes(QUESTION), mazes(ANSWER)
    assert maze_valid(question, answer)[0]
    for cell in (5, 255):  # 255: predicted padding
        changed_answer = answer.copy()
        changed_answer[0, 0, 2] = cell
        assert not maze_valid(question, changed_answer)[0]
    assert maze_valid(question[:0], answer[:0]).tolist() == []
    with pytest.raises(ValueError, match=r"must both have shape .* Got \[1, 3, 3\] and \[1, 2, 3\]"):
        maze_valid(question, answer[:, 1:])


def test_validity_agrees_with_labels() -> None:
    rng = np.random.default_rng(0)
    questions = (rng.random((3000, 6, 6)) >= 0.35).astype(np.uint8)
    questions[:, 0, 0], questions[:, 4, 5] = 2, 3
    answers, moves = label_mazes(questions)
    assert np.array_equal(maze_valid(questions, answers), moves > 0)
    assert 0 < (moves > 0).sum() < 3000
    # A removed or an additional path cell is always invalid.
    for new, old in ((4, 1), (1, 4)):
        changed = answers.copy()
        where = (np.cumsum((answers == old).reshape(len(answers), -1), axis=1) == 1).reshape(answers.shape)
        changed[where & (answers == old)] = new
        touched = (changed != answers).any(axis=(1, 2)) & (moves > 0)
        assert touched.any()
        assert not maze_valid(questions[touched], changed[touched]).any()


def test_are_equivalent() -> None:
    rng = np.random.default_rng(1)
    maze, other = rng.integers(0, 2, (2, 5, 5), dtype=np.uint8)
    for symmetry in range(8):
        rotated = apply_symmetry(maze, symmetry)
        assert are_equivalent(maze, rotated)
        assert not are_equivalent(rotated, other)
        assert np.array_equal(fingerprints(maze[None]), fingerprints(rotated[None]))
    assert fingerprints(maze[None])[0] != fingerprints(other[None])[0]
