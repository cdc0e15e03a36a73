from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.data.canvas import crop_grids
from trm.data.protocol import Grid
from trm.datasets.arc.render import render, transform_grids


def _grid(*rows: str) -> Grid:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def test_canvas_worked_by_hand() -> None:
    inputs, labels = np.zeros((2, 1, 900), dtype=np.uint8)
    transformed = transform_grids([(_grid("123"), _grid("0", "9"))])
    permutation = np.array([[0, 2, 1, 3, 4, 5, 6, 7, 8, 9]], dtype=np.uint8)
    # Rotation turns the row of the input into a column.
    symmetry = np.ones(1, dtype=np.uint8)
    render(transformed, np.arange(1), symmetry, permutation, 0, np.uint64(0), True, inputs, labels)
    seen = inputs.reshape(30, 30)
    assert seen[:5, :3].tolist() == [[5, 1, 0], [3, 1, 0], [4, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert not seen[5:].any() and not seen[:, 2:].any()
    seen = labels.reshape(30, 30)
    assert seen[:3, :4].tolist() == [[2, 11, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert not seen[2:].any() and not seen[:, 3:].any()


def test_end_tokens_at_border_of_canvas() -> None:
    inputs, labels = np.zeros((2, 1, 900), dtype=np.uint8)
    pair = (np.full((30, 29), 4, np.uint8), np.full((2, 30), 5, np.uint8))
    identity = np.arange(10, dtype=np.uint8)[None]
    render(
        transform_grids([pair]), np.arange(1), np.zeros(1, np.uint8), identity, 0, np.uint64(0), True, inputs, labels
    )
    seen = inputs.reshape(30, 30)
    assert (seen[:, :29] == 6).all() and (seen[:, 29] == 1).all()
    seen = labels.reshape(30, 30)
    assert (seen[:2] == 7).all() and (seen[2] == 1).all() and not seen[3:].any()


def test_offsets_and_unshifted_pair_are_uniform() -> None:
    pairs = [(_grid("1" * 27), _grid(*["2"] * 28)), (_grid("3"), _grid("4" * 27)), (_grid("5"), _grid("6"))]
    count = 6000
    inputs, labels = np.zeros((2, 3 * count, 900), dtype=np.uint8)
    symmetries, permutations = np.zeros(count, np.uint8), np.tile(np.arange(10, dtype=np.uint8), (count, 1))
    render(transform_grids(pairs), np.arange(3), symmetries, permutations, 0, np.uint64(7), True, inputs, labels)
    first = np.argmax(inputs != 0, axis=1).reshape(count, 3)
    # Pair 0 has 12 offsets (rows 0..2, columns 0..3) in two of three augmentations, and (0, 0) in the others.
    seen = Counter((int(at) // 30, int(at) % 30) for at in first[:, 0])
    assert set(seen) == {(row, column) for row in range(3) for column in range(4)}
    assert 1900 < seen.pop((0, 0)) - 4000 / 12 < 2100
    assert all(270 < times < 400 for times in seen.values())
    assert {int(at) % 30 for at in first[:, 1]} == set(range(4)) and {int(at) // 30 for at in first[:, 1]} == {
        *range(30)
    }
    assert {int(at) % 30 for at in first[:, 2]} == set(range(30))
    assert (first == 0).any(axis=1).all()


def _tokens(*rows: str) -> np.ndarray:
    """Colors as digits, `|` as the end token, a space as padding."""
    canvas = np.zeros((30, 30), dtype=np.uint8)
    for number, row in enumerate(rows):
        canvas[number, : len(row)] = [{" ": 0, "|": 1}.get(cell, ord(cell) - ord("0") + 2) for cell in row]
    return canvas.ravel()


@pytest.mark.parametrize(
    ("tokens", "answer"),
    [
        (_tokens("12|", "34|", "||"), [[1, 2], [3, 4]]),
        (_tokens("", "34"), np.zeros((0, 0))),
        (_tokens("|"), np.zeros((0, 0))),
        (_tokens("1"), [[1]]),
        (_tokens("1234", "56", "78"), [[1, 2], [5, 6], [7, 8]]),  # 4, 4, 6
        (_tokens("1234", "56"), [[1, 2, 3, 4]]),  # 4, 4: the first
        (_tokens("1 34", "5678", "9"), [[1], [5], [9]]),
        (_tokens("12", "34", "", "56", "78"), [[1, 2], [3, 4]]),  # colors outside of the rectangle
        (_tokens("1", "23456"), [[1], [2]]),
        (np.full(900, 11, np.uint8), np.full((30, 30), 9)),
    ],
)
def test_crop_worked_by_hand(tokens: np.ndarray, answer: object) -> None:
    grid = crop_grids(tokens.reshape(1, 30, 30))[0]
    assert grid.dtype == np.uint8
    assert np.array_equal(grid, np.array(answer))


@given(st.integers(0, 2**32), st.sampled_from([0.02, 0.1, 0.5]))
def test_crop_equals_naive_implementation(seed: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    canvas = rng.integers(2, 12, (30, 30)).astype(np.uint8)
    canvas[rng.random((30, 30)) < holes] = rng.integers(2)
    best = (0, 0)
    for height in range(1, 31):
        width = 0
        while width < 30 and (canvas[:height, width] >= 2).all():
            width += 1
        best = (height, width) if height * width > best[0] * best[1] else best
    assert np.array_equal(crop_grids(canvas[None])[0], canvas[: best[0], : best[1]] - 2)
