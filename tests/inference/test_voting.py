import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.inference.voting import Candidate, VoteCounter, grid_hash

A = np.array([[1, 2], [3, 4]], dtype=np.uint8)
B = np.array([[4, 3], [2, 1]], dtype=np.uint8)
C = np.array([[1, 2, 3, 4]], dtype=np.uint8)
EMPTY = np.zeros((0, 0), dtype=np.uint8)


def grids(ranked: list[Candidate]) -> list[list[list[int]]]:
    return [candidate.grid.tolist() for candidate in ranked]


def test_more_votes_beat_a_higher_halt_probability() -> None:
    counter = VoteCounter()
    counter.add("p", A, 9.0)
    counter.add("p", B, -3.0)
    counter.add("p", B, -3.0)
    first, second = counter.ranked("p")
    assert first.grid.tolist() == B.tolist()
    assert (first.votes, second.votes) == (2, 1)
    assert first.halt_probability == pytest.approx(0.04742587317756678, rel=1e-15)  # 1 / (1 + e^3)


def test_equal_votes_are_ranked_by_the_mean_halt_probability_not_the_mean_logit() -> None:
    counter = VoteCounter()
    for logit in (0.0, 0.0):  # mean probability 0.5, mean logit 0
        counter.add("p", A, logit)
    for logit in (math.log(3), -1000.0):  # probabilities 3/4 and 0: mean 0.375, mean logit far below
        counter.add("p", B, logit)
    for logit in (20.0, -10.0):  # probabilities near 1 and 0: mean just above 0.5, mean logit 5
        counter.add("p", C, logit)
    counter.add("q", A, 2.0)
    counter.add("q", A, -3.0)  # mean probability 0.464, mean logit -0.5
    counter.add("q", B, -0.4)
    counter.add("q", B, -0.4)  # mean probability 0.401, mean logit -0.4
    assert grids(counter.ranked("p")) == [C.tolist(), A.tolist(), B.tolist()]
    assert [candidate.halt_probability for candidate in counter.ranked("p")[1:]] == [0.5, 0.375]
    assert grids(counter.ranked("q")) == [A.tolist(), B.tolist()]


@pytest.mark.parametrize("order", [(A, B, C), (C, A, B), (B, C, A), (C, B, A)])
def test_ties_are_resolved_by_order(order: tuple[np.ndarray, ...]) -> None:
    counter = VoteCounter()
    for grid in order:
        counter.add("p", grid, 1.0)
    for grid in reversed(order):  # a later vote does not change the order
        counter.add("p", grid, 1.0)
    assert grids(counter.ranked("p")) == [grid.tolist() for grid in order]


def test_votes_of_two_ranks() -> None:
    """Two processes share augmentations 0 to 3: rank 0 answers 0 and 2, rank 1 answers 1 and 3."""
    ranks = [[(B, 0.5), (C, 0.5)], [(A, 0.5), (C, 0.25)]]
    counter = VoteCounter()
    for rank in ranks:
        for grid, logit in rank:
            counter.add("p", grid, logit)
    # C has two votes. A and B tie in votes and in halt logit: B came from rank 0, so it was seen first.
    assert grids(counter.ranked("p")) == [C.tolist(), B.tolist(), A.tolist()]
    counter = VoteCounter()
    for rank in reversed(ranks):
        for grid, logit in rank:
            counter.add("p", grid, logit)
    assert grids(counter.ranked("p")) == [C.tolist(), A.tolist(), B.tolist()]


def test_puzzles_do_not_share_votes() -> None:
    counter = VoteCounter()
    counter.add(("task", b"1"), A, 0.0)
    counter.add(("task", b"2"), B, 0.0)
    assert grids(counter.ranked(("task", b"1"))) == [A.tolist()]
    assert grids(counter.ranked(("task", b"2"))) == [B.tolist()]
    assert list(counter) == [("task", b"1"), ("task", b"2")]
    assert len(counter) == 2


def test_puzzle_without_votes() -> None:
    counter = VoteCounter()
    assert counter.ranked("p") == []
    assert len(counter) == 0  # ranking does not add votes


def test_hash_is_height_width_cells() -> None:
    assert grid_hash(C) == hashlib.sha256(bytes([1, 4, 1, 2, 3, 4])).digest()
    assert grid_hash(EMPTY) == hashlib.sha256(bytes([0, 0])).digest()
    # A transposed view has the cells in logical order, not in memory order.
    assert grid_hash(A.T) == hashlib.sha256(bytes([2, 2, 1, 3, 2, 4])).digest()


def test_shape_is_part_of_the_vote_and_an_empty_grid_votes() -> None:
    counter = VoteCounter()
    for grid in (C, C.reshape(2, 2), C.reshape(4, 1), EMPTY, EMPTY):
        counter.add("p", grid, 0.0)
    assert [candidate.grid.shape for candidate in counter.ranked("p")] == [(0, 0), (1, 4), (2, 2), (4, 1)]


def test_votes_are_copied() -> None:
    counter, grid = VoteCounter(), A.copy()
    counter.add("p", grid, 0.0)
    grid[:] = 9
    assert grids(counter.ranked("p")) == [A.tolist()]


def test_extreme_logits_do_not_overflow() -> None:
    counter = VoteCounter()
    counter.add("p", A, 1e30)
    counter.add("p", B, -1e30)
    counter.add("p", C, float("-inf"))
    assert [candidate.halt_probability for candidate in counter.ranked("p")] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("grid", [A.astype(np.int64), A[0], np.zeros((1, 256), np.uint8)])
def test_invalid_grids_are_rejected(grid: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a grid uint8 \[h, w\]"):
        VoteCounter().add("p", grid, 0.0)


def test_nan_is_rejected() -> None:
    with pytest.raises(ValueError, match="puzzle 'p' must be a number"):
        VoteCounter().add("p", A, float("nan"))


@given(st.lists(st.tuples(st.sampled_from(range(5)), st.sampled_from((-2.0, 0.0, 0.25, 3.0))), max_size=30))
def test_ranking_equals_naive_implementation(votes: list[tuple[int, float]]) -> None:
    counter = VoteCounter()
    for cell, logit in votes:
        counter.add("p", np.full((1, 1), cell, np.uint8), logit)
    seen = list(dict.fromkeys(cell for cell, _ in votes))
    means = {}
    for cell in seen:
        probabilities = [1 / (1 + math.exp(-logit)) for other, logit in votes if other == cell]
        means[cell] = (len(probabilities), sum(probabilities) / len(probabilities))
    expected = sorted(seen, key=lambda cell: (-means[cell][0], -round(means[cell][1], 12), seen.index(cell)))
    ranked = counter.ranked("p")
    assert [candidate.votes for candidate in ranked] == [means[cell][0] for cell in expected]
    # Means that differ only in the order of summation may differ in the last bit.
    assert [c.halt_probability for c in ranked] == pytest.approx([means[cell][1] for cell in expected], abs=1e-12)
    assert sorted(int(c.grid[0, 0]) for c in ranked) == sorted(expected)
