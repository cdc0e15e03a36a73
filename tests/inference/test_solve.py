"""Puzzles as text: accepted notations and error messages."""

import numpy as np
import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.puzzle import get_solvable_dataset, make_puzzle, to_tokens
from trm.inference.puzzle_input import parse_puzzles
from trm.inference.solve import solve, solve_puzzle
from trm.models.act import build_model
from trm.utils.errors import DataError, ParamsError, UserError


def custom_meta(symbols: str, height: int = 2, width: int = 3) -> DatasetMeta:
    return DatasetMeta(name="custom", height=height, width=width, vocabulary=("pad", *symbols), num_identifiers=1)


def parse_puzzle(text: str, meta: DatasetMeta) -> np.ndarray:
    (grid,) = parse_puzzles(text, meta)
    return grid


def error_of(text: str, meta: DatasetMeta) -> str:
    with pytest.raises(UserError) as error:
        parse_puzzle(text, meta)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_blanks_of_sudoku_and_maze() -> None:
    assert parse_puzzle("1._0" * 4, sudoku_meta(4)).tolist() == [[1, 0, 0, 0]] * 4
    assert parse_puzzle("# ._" * 3 + "S0oG", maze_meta(4)).tolist() == [[0, 1, 1, 1]] * 3 + [[2, 1, 1, 3]]


def test_symbols_of_custom_puzzles() -> None:
    assert parse_puzzle("#.#/.#.", custom_meta("#.")).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert parse_puzzle("## /#  ", custom_meta("# ")).tolist() == [[0, 0, 1], [0, 1, 1]]
    for symbols in ("#.", "# ", "#a"):
        for typed in {"0", "_", "."} - set(symbols):
            assert f"Got {typed!r}" in error_of(f"##{typed}", custom_meta(symbols))


def test_rows_of_a_puzzle_that_fills_its_canvas() -> None:
    maze, cells = maze_meta(6), "S" + " " * 34 + "G"
    expected = parse_puzzle(cells, maze)
    assert expected.shape == (6, 6)
    for width in (6, 36):
        rows = [cells[start : start + width] for start in range(0, 36, width)]
        assert np.array_equal(parse_puzzle("/".join(rows), maze), expected)
        assert np.array_equal(parse_puzzle("\n".join([*rows, ""]), maze), expected)
    for width in (4, 9, 12, 18):
        rows = [cells[start : start + width] for start in range(0, 36, width)]
        message = f"the puzzle must have 36 cells (6 x 6) for this --model. Got {36 // width} rows of {width}"
        assert error_of("/".join(rows), maze) == message
    assert error_of(cells[1:], maze) == "the puzzle must have 36 cells (6 x 6) for this --model. Got 35"
    assert error_of("", maze) == "the puzzle is empty; give 36 cells (6 x 6), row by row"
    assert "must have one length" in error_of("S /  G", maze)


def test_rows_of_smaller_puzzles() -> None:
    meta = custom_meta("ab")
    assert parse_puzzle("abbaab", meta).shape == (2, 3)
    assert parse_puzzle("ab", meta).shape == (1, 2)
    assert parse_puzzle("ab/ba", meta).shape == (2, 2)
    for text, got in {"abab": "4", "a/b/a": "3 rows of 1", "abba/abba": "2 rows of 4"}.items():
        assert error_of(text, meta) == f"the puzzle must have at most 6 cells (2 x 3) for this --model. Got {got}"


def test_sums(model_params: ModelParams) -> None:
    meta = arithmetic_meta(2)
    model = build_model(model_params, meta)
    for text in ("12+34=", "12+34=...", "12+34=.\n"):
        question = parse_puzzle(text, meta)
        assert question.tolist() == [[1, 2, 10, 3, 4, 11]]
        assert solve(model, meta, [question], max_steps=1)[0].grid.shape == (1, 9)
    for text in ("1+2=", "12+34", "99", "12+34=046", "12+34=0", "12=34+", "012+34="):
        message = (
            rf"^the question must be of the form 11\+22=\.\.\. \(2 digits each\)\. Got {text.replace('+', '[+]')}$"
        )
        with pytest.raises(UserError, match=message):
            solve(model, meta, [parse_puzzle(text, meta)], max_steps=1)


def test_invalid_cells(model_params: ModelParams) -> None:
    meta = sudoku_meta(4)
    model = build_model(model_params, meta)
    with pytest.raises(DataError, match=r"a puzzle must be 4 x 4. Got shape \(2, 8\)"):
        solve(model, meta, [np.zeros((2, 8))])
    with pytest.raises(DataError, match=r"the cells of a puzzle must be 0..4. Got 0..5"):
        solve(model, meta, [np.diag([5, 0, 0, 0])])
    with pytest.raises(ParamsError, match="solve: max_steps must be greater than or equal to 1. Got 0"):
        solve(model, meta, [], max_steps=0)


def test_puzzles_in_one_batch_have_their_own_answers(model_params: ModelParams) -> None:
    """Votes, samples and seeds of a list are those of each puzzle alone."""
    meta = sudoku_meta(4)
    model = build_model(model_params, meta)
    with torch.no_grad():
        model.q_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    grids = [np.diag([digit, 0, 0, 0]) for digit in range(5)]
    config = DEFAULT_INFERENCE.model_copy(
        update={"max_steps": 3, "num_votes": 3, "num_samples": 2, "latent_noise_std": 0.5}
    )
    together = solve(model, meta, grids, config, seed=2)
    for number, (grid, answer) in enumerate(zip(grids, together, strict=True)):
        puzzle = make_puzzle(meta, to_tokens(meta, get_solvable_dataset(meta), grid), 3, 2, number)
        alone = solve_puzzle(model, meta, puzzle, config)
        assert np.array_equal(answer.grid, alone.grid)
        assert (answer.votes, answer.valid) == (alone.votes, alone.valid)
        assert answer.halt_probability == pytest.approx(alone.halt_probability, abs=1e-5)
    assert len({answer.grid.tobytes() for answer in together}) > 1
