import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.evaluation.metrics import Estimate, mean_interval, proportion


def wilson(successes: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054  # the normal distribution's 97.5 % point
    p = successes / n
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)


def as_json(estimate: Estimate) -> dict[str, float | int | None]:
    """Through JSON and back: plain numbers, no NaN."""
    return json.loads(json.dumps(estimate, allow_nan=False))


def test_proportion_by_hand() -> None:
    # 8 of 10 with z = 1.96: the textbook's (0.490, 0.943).
    estimate = as_json(proportion(8, 10))
    assert estimate["value"] == 0.8
    assert estimate["low"] == pytest.approx(0.4901625, abs=1e-6)
    assert estimate["high"] == pytest.approx(0.9433178, abs=1e-6)
    assert estimate["n"] == 10


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 500), (500, 500), (475, 500), (365000, 422786)])
def test_proportion_is_wilsons(successes: int, n: int) -> None:
    estimate = as_json(proportion(successes, n))
    low, high = wilson(successes, n)
    assert estimate["low"] == pytest.approx(max(low, 0), abs=1e-9)
    assert estimate["high"] == pytest.approx(min(high, 1), abs=1e-9)


def test_a_perfect_score_is_not_certain() -> None:
    estimate = proportion(500, 500)
    assert estimate["value"] == 1.0
    assert estimate["high"] == 1.0
    assert estimate["low"] == pytest.approx(500 / (500 + 1.959963984540054**2))


def test_no_puzzles_no_score() -> None:
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    assert as_json(proportion(0, 0)) == nothing
    assert as_json(mean_interval([])) == nothing
    assert as_json(mean_interval(np.zeros(0), np.zeros(0))) == nothing


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"Got {successes} of {n}"):
        proportion(successes, n)


def test_numpy_numbers_become_plain_ones() -> None:
    estimate = as_json(proportion(np.int64(3), np.int32(4)))  # pyright: ignore[reportArgumentType]
    assert estimate["value"] == 0.75
    assert as_json(mean_interval(np.array([0.25, 0.75], dtype=np.float32)))["value"] == 0.5


def test_mean_by_hand() -> None:
    # Mean 0.5; s^2 = (0.04 + 0 + 0.04) / 2 = 0.04; error sqrt(0.04 / 3); t(2, 97.5 %) = 4.302652730.
    estimate = as_json(mean_interval([0.3, 0.5, 0.7], bounds=(-5, 5)))
    reach = 4.302652729911275 * math.sqrt(0.04 / 3)
    assert estimate["value"] == pytest.approx(0.5)
    assert estimate["low"] == pytest.approx(0.5 - reach)
    assert estimate["high"] == pytest.approx(0.5 + reach)
    assert estimate["n"] == 3


def test_weights_by_hand() -> None:
    # Three cells all right and one cell wrong: 3 of 4. Variance 2/1 * (9 / 16 + 9 / 16) / 16 = 9 / 64; t(1, 97.5 %).
    estimate = as_json(mean_interval([1.0, 0.0], weights=[3, 1], bounds=(-9, 9)))
    reach = 12.706204736174694 * 3 / 8
    assert estimate["value"] == 0.75
    assert estimate["low"] == pytest.approx(0.75 - reach)
    assert estimate["high"] == pytest.approx(0.75 + reach)


def test_the_scale_of_the_weights_means_nothing() -> None:
    values = [0.5, 0.8, 0.9]
    plain = mean_interval(values)
    for weight in (1, 36):
        estimate = mean_interval(values, weights=[weight] * 3)
        assert [estimate["value"], estimate["low"], estimate["high"]] == pytest.approx(
            [plain["value"], plain["low"], plain["high"]]
        )


def test_bounds_are_never_left() -> None:
    assert mean_interval([0.0, 1.0])["low"] == 0.0
    assert mean_interval([0.0, 1.0])["high"] == 1.0
    steps = mean_interval([1.0, 16.0], bounds=(1, 16))
    assert (steps["value"], steps["low"], steps["high"]) == (8.5, 1, 16)


def test_one_puzzle_has_no_interval() -> None:
    assert as_json(mean_interval([0.75])) == {"value": 0.75, "low": None, "high": None, "n": 1}


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[n\]. Got \[2\] and \[1\]"):
        mean_interval([0.5, 0.5], weights=[1])
    with pytest.raises(ValueError, match=r"Got \[1, 2\]"):
        mean_interval(np.zeros((1, 2)))
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            mean_interval([0.5, 0.5], weights=[1, weight])
    for value in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"between 0\.0 and 1\.0"):
            mean_interval([0.5, value])


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 81)), max_size=50))
def test_the_mean_lies_in_its_interval(pairs: list[tuple[float, int]]) -> None:
    estimate = as_json(mean_interval([value for value, _ in pairs], [weight for _, weight in pairs]))
    low, value, high = estimate["low"], estimate["value"], estimate["high"]
    assert (value is None) == (len(pairs) == 0)
    assert (low is None) == (high is None) == (len(pairs) < 2)
    if low is not None and value is not None and high is not None:
        assert 0 <= low <= value <= high <= 1
