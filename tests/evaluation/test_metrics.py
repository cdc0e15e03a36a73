import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.evaluation.evaluate import cell_accuracy
from trm.evaluation.metrics import Estimate, compute_metrics, leak_metrics, mean_interval, proportion


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
def test_proportion_is_the_wilson_interval(successes: int, n: int) -> None:
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


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, 0), (0, -1)])
def test_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"Got {successes} of {n}"):
        proportion(successes, n)


def test_numpy_numbers_become_python_numbers() -> None:
    estimate = as_json(proportion(np.int64(3), np.int32(4)))  # pyright: ignore[reportArgumentType]
    assert estimate["value"] == 0.75
    assert as_json(mean_interval(np.array([0.25, 0.75], dtype=np.float32)))["value"] == 0.5


def test_mean_by_hand() -> None:
    # Mean 0.5; s^2 = (0.0025 + 0 + 0.0025) / 2; error sqrt(0.0025 / 3); t(2, 97.5 %) = 4.302652730.
    estimate = as_json(mean_interval([0.45, 0.5, 0.55]))
    reach = 4.302652729911275 * math.sqrt(0.0025 / 3)
    assert estimate["value"] == pytest.approx(0.5)
    assert estimate["low"] == pytest.approx(0.5 - reach)
    assert estimate["high"] == pytest.approx(0.5 + reach)
    assert estimate["n"] == 3


def test_interval_is_within_0_and_1() -> None:
    assert mean_interval([0.0, 1.0])["low"] == 0.0
    assert mean_interval([0.0, 1.0])["high"] == 1.0


def test_one_puzzle_has_no_interval() -> None:
    assert as_json(mean_interval([0.75])) == {"value": 0.75, "low": None, "high": None, "n": 1}


@pytest.mark.parametrize("values", [np.zeros((1, 2)), [0.5, -0.01], [0.5, 1.01], [0.5, float("nan")]])
def test_invalid_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values must be fractions"):
        mean_interval(values)


@given(st.lists(st.floats(0, 1), max_size=50))
def test_the_mean_lies_in_its_interval(values: list[float]) -> None:
    estimate = as_json(mean_interval(values))
    low, value, high = estimate["low"], estimate["value"], estimate["high"]
    assert (value is None) == (len(values) == 0)
    assert (low is None) == (high is None) == (len(values) < 2)
    if low is not None and value is not None and high is not None:
        assert 0 <= low <= value <= high <= 1


def rows(**columns: list) -> pa.Table:
    """Rows of predictions.parquet; columns not given have default values."""
    count = len(columns["exact"])
    rest: dict[str, list] = {"pair": [0] * count, "valid": [None] * count, "halt_logit": [0.0] * count}
    rest["confidence"] = [1.0] * count
    rest |= {"steps": [16] * count, "halt_step": [16] * count, "correct": columns["exact"]}
    rest["cell_accuracy"] = [value if value is None else float(value) for value in columns["exact"]]
    table = pa.table({**rest, **columns})
    for name in ("exact", "correct", "valid"):  # a column of nulls has no type
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.bool_()))
    return table


def test_scores_by_hand() -> None:
    """Three puzzles with two augmentations. The vote corrects the first and loses the second; both miss the third."""
    table = rows(
        task=["a", "a", "b", "b", "c", "c"],
        augmentation=[0, 1] * 3,
        exact=[False, True, True, False, False, False],
        valid=[False, True, True, True, True, False],
        rank=[2, 1, 2, 1, 1, 2],
        halt_logit=[-1.0, 2.0, 1.0, 3.0, 1.0, 0.0],
        cell_accuracy=[0.5, 1.0, 1.0, 0.25, 0.75, 0.0],
        halt_step=[16, 2, 3, 1, 2, 5],
    )
    found = compute_metrics(table, {"a": 1, "b": 1, "c": 1}, num_votes=2, pass_at_k=[1, 2], passes=10)
    assert found["exact_accuracy"] == pytest.approx(1 / 3)
    assert found["cell_accuracy"] == pytest.approx(0.75)
    assert found["halt_accuracy"] == pytest.approx(2 / 3)  # -1 and wrong, 1 and right, 1 and wrong
    assert found["valid"] == pytest.approx(2 / 3)
    assert found["valid_voted"] == pytest.approx(1.0)
    assert found["pass@1"] == pytest.approx(1 / 3)
    assert found["pass@2"] == pytest.approx(2 / 3)
    assert (found["mean_steps"], found["mean_halt_step"]) == (16, 7)
    assert found["mean_forward_passes"] == 10 * (6 * 16) / 3
    assert (found["puzzles"], found["tasks"], found["num_votes"]) == (3, 3, 2)
    intervals = found["interval_95"]
    assert isinstance(intervals, dict)
    assert set(intervals) == {
        "exact_accuracy",
        "cell_accuracy",
        "halt_accuracy",
        "valid",
        "valid_voted",
        "pass@1",
        "pass@2",
    }
    assert intervals["exact_accuracy"] == pytest.approx(wilson(1, 3))


def test_tasks_of_several_pairs_by_hand() -> None:
    """Task a: two pairs, one correct at rank 1, one at rank 2. Task b: one pair without prediction, one correct at
    rank 3. Task c: no prediction."""
    table = rows(
        task=["a", "a", "a", "a", "b", "b", "b"],
        pair=[0, 0, 1, 1, 1, 1, 1],
        augmentation=[0, 1, 0, 1, 0, 1, 2],
        exact=[True, False, False, True, False, False, True],
        rank=[1, 2, 1, 2, 1, 2, 3],
    )
    found = compute_metrics(table, {"a": 2, "b": 2, "c": 1}, num_votes=3, pass_at_k=[1, 2, 5], passes=10)
    assert found["pass@1"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert found["pass@2"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["pass@5"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["exact_accuracy"] == pytest.approx(1 / 3)  # single answers of the predicted pairs
    assert found["valid"] is found["valid_voted"] is None
    assert (found["puzzles"], found["tasks"]) == (3, 3)
    assert json.dumps(found, allow_nan=False)


def test_coverage_by_hand() -> None:
    """Four puzzles with two augmentations, the last without solution: at 0.6, a and c and d are answered; the vote
    answers a and b correctly."""
    table = rows(
        task=["a", "a", "b", "b", "c", "c", "d", "d"],
        augmentation=[0, 1] * 4,
        exact=[False, True, True, False, False, False, None, None],
        rank=[2, 1, 1, 2, 1, 2, 1, 2],
        confidence=[0.6, 0.6, 0.59, 0.59, 0.9, 0.9, 1.0, 1.0],
    )
    tasks = dict.fromkeys("abcd", 1)
    plain = compute_metrics(table, tasks, num_votes=2, pass_at_k=[1], passes=10)
    found = compute_metrics(table, tasks, num_votes=2, pass_at_k=[1], passes=10, min_confidence=0.6)
    assert found["coverage"] == 3 / 4
    assert found["answered_accuracy"] == 1 / 2
    assert found["answered"] == 3
    intervals, without = found["interval_95"], plain["interval_95"]
    assert isinstance(intervals, dict) and isinstance(without, dict)
    assert intervals["coverage"] == pytest.approx(wilson(3, 4))
    assert intervals["answered_accuracy"] == pytest.approx(wilson(1, 2))
    # All other metrics count every puzzle.
    more = {"coverage", "answered_accuracy"}
    assert {name: value for name, value in found.items() if name in plain and name != "interval_95"} == {
        name: value for name, value in plain.items() if name != "interval_95"
    }
    assert set(found) - set(plain) == more | {"answered"}
    assert set(intervals) - set(without) == more
    nothing = compute_metrics(table, tasks, num_votes=2, pass_at_k=[1], passes=10, min_confidence=1.0)
    assert (nothing["coverage"], nothing["answered_accuracy"], nothing["answered"]) == (1 / 4, None, 1)
    assert json.dumps(nothing, allow_nan=False)
    leaks = leak_metrics(table, tasks, {"a", "d"}, num_votes=2, pass_at_k=[1], passes=10, min_confidence=0.6)[
        "without_leaks"
    ]
    assert isinstance(leaks, dict)
    assert (leaks["coverage"], leaks["answered_accuracy"], leaks["answered"]) == (1 / 2, 0, 1)
    everything = leak_metrics(table, tasks, set(tasks), 2, [1], 10, 0.6)["without_leaks"]
    assert isinstance(everything, dict)
    assert everything["coverage"] is everything["answered_accuracy"] is None


def test_no_scores_without_solutions() -> None:
    table = rows(task=["a", "a"], augmentation=[0, 1], exact=[None, None], rank=[1, 2])
    found = compute_metrics(table, {"a": 1}, num_votes=2, pass_at_k=[1], passes=10)
    assert all(found[name] is None for name in ("exact_accuracy", "cell_accuracy", "halt_accuracy", "pass@1"))
    assert found["mean_steps"] == 16


def test_scores_without_leaked_tasks() -> None:
    """Task a, which is leaked, is solved; task b fails one pair of two; task c has no prediction."""
    table = rows(
        task=["a", "b", "b"],
        pair=[0, 0, 1],
        augmentation=[0, 0, 0],
        exact=[True, True, False],
        rank=[1, 1, 1],
    )
    tasks = {"a": 1, "b": 2, "c": 1}
    found = leak_metrics(table, tasks, {"a", "elsewhere"}, num_votes=1, pass_at_k=[1], passes=10)
    assert found["leaked_tasks"] == 1
    others = found["without_leaks"]
    assert isinstance(others, dict)
    assert others["exact_accuracy"] == pytest.approx(1 / 2)
    assert others["pass@1"] == pytest.approx((0.5 + 0) / 2)
    assert (others["puzzles"], others["tasks"]) == (2, 2)
    assert others["interval_95"]["exact_accuracy"] == pytest.approx(wilson(1, 2))
    assert json.dumps(found, allow_nan=False)
    assert leak_metrics(table, tasks, {"elsewhere"}, 1, [1], 10) == {"leaked_tasks": 0}
    everything = leak_metrics(table, tasks, {"a", "b", "c"}, 1, [1], 10)
    counts = {"puzzles": 0, "tasks": 0, "interval_95": {}}
    assert everything == {"leaked_tasks": 3, "without_leaks": {**dict.fromkeys(others), **counts}}


@pytest.mark.parametrize(
    ("grid", "accuracy"),
    [
        ([[1, 2], [3, 4]], 1.0),
        ([[1, 2]], 0.5),  # 2 of 4 cells
        ([[1, 2, 9], [3, 4, 9]], 4 / 6),
        ([[1], [9], [3]], 1 / 5),  # 3 + 4 cells, 2 of them in both
        (np.zeros((0, 0)), 0.0),
    ],
)
def test_cell_accuracy_of_another_shape(grid: list[list[int]], accuracy: float) -> None:
    assert cell_accuracy(np.array(grid, np.uint8), np.array([[1, 2], [3, 4]], np.uint8)) == pytest.approx(accuracy)
