import numpy as np
import pytest

from trm.datasets.maze import generator as maze_generator
from trm.datasets.maze.generator import generate_mazes
from trm.datasets.maze.grid import GOAL, START, WALL, fingerprints, label_mazes
from trm.datasets.maze.rules import maze_valid
from trm.utils.errors import UserError


def test_mazes_are_labelled_and_distinct() -> None:
    questions, answers, moves = generate_mazes(10, 300, (0.2, 0.4), 20, 0)
    assert questions.shape == answers.shape == (300, 10, 10)
    assert questions.dtype == answers.dtype == np.uint8
    assert moves.dtype == np.int32
    assert moves.min() == 20
    assert maze_valid(questions, answers).all()
    labelled, counted = label_mazes(questions)
    assert np.array_equal(answers, labelled)
    assert np.array_equal(moves, counted)
    assert len(np.unique(fingerprints(questions))) == 300


def test_result_depends_only_on_arguments() -> None:
    first, again, other = (generate_mazes(8, 40, (0.3, 0.4), 12, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(generate_mazes(8, 60, (0.3, 0.4), 12, 1)[0][:40], first)


def test_wall_density() -> None:
    def shares(low: float, high: float) -> np.ndarray:
        return (generate_mazes(20, 300, (low, high), 2, 0)[0] == WALL).mean(axis=(1, 2))

    # The standard deviation of the wall density of 400 cells is sqrt(p (1 - p) / 400): 0.02.
    one = shares(0.25, 0.25)
    assert abs(one.mean() - 0.25) < 0.01
    assert 0.015 < one.std() < 0.03
    wide = shares(0.1, 0.4)
    assert wide.min() < 0.13
    assert wide.max() > 0.35


def test_start_and_goal_positions() -> None:
    questions = generate_mazes(6, 1000, (0.0, 0.3), 1, 0)[0]
    for cell in (START, GOAL):
        counts = (questions == cell).sum(axis=0)
        assert counts.min() > 5
        assert counts.max() < 60


@pytest.mark.slow
def test_distribution_matches_maze_hard() -> None:
    questions, answers, moves = generate_mazes(30, 200, (0.28, 0.45), 109, 0)
    walls = (questions == WALL).mean(axis=(1, 2))
    assert maze_valid(questions, answers).all()
    # Published mazes: wall density 0.3715 +- 0.0265; median 112, mean 113.8 moves.
    assert abs(walls.mean() - 0.3715) < 0.01
    assert 0.02 < walls.std() < 0.033
    assert moves.min() == 109
    assert abs(moves.mean() - 113.8) < 1.5


def test_impossible_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^data.source.wall_density must be .* Got 0.5 and 0.4; "):
        generate_mazes(8, 1, (0.5, 0.4), 5, 0)
    with pytest.raises(UserError, match=r"^data.source.min_path must be from 1 to 63 for a 8x8 maze. Got 64$"):
        generate_mazes(8, 1, (0.3, 0.4), 64, 0)
    monkeypatch.setattr(maze_generator, "MAX_CELLS_WITHOUT_MAZE", 1_000_000)
    with pytest.raises(UserError, match=r"^data.source.min_path: only 0 of 3 8x8 mazes .* data.source.wall_density"):
        generate_mazes(8, 3, (0.3, 0.4), 60, 0)
    with pytest.raises(UserError, match=r"^data.source.min_path: only 0 of 3 8x8 mazes"):
        generate_mazes(8, 3, (0.999999, 0.999999), 1, 0)  # rarely two free cells


def test_too_few_distinct_mazes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maze_generator, "MAX_DUPLICATE_MAZES", 500)
    assert (
        len(generate_mazes(4, 1, (0.0, 0.0), 6, 0)[0]) == 1
    )  # only one maze has no walls and such a path: from corner to corner
    with pytest.raises(UserError, match=r"^data.source.train_puzzles and test_puzzles: only 1 different 4x4 mazes"):
        generate_mazes(4, 2, (0.0, 0.0), 6, 0)
