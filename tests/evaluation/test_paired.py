"""Paired statistics, by hand."""

import numpy as np
import pytest

from trm.evaluation.paired import compare_paired


def scores(solved: list[bool]) -> dict[tuple[str, int], bool]:
    return {(str(n), 0): value for n, value in enumerate(solved)}


def test_mcnemar_by_hand() -> None:
    # 20 puzzles: 7 are solved by the candidate only, 1 by the champion only. The two-sided p-value of the
    # binomial test with 8 trials is 2 * (1 + 8) / 256.
    ours, theirs = [True] * 17 + [False] * 3, [True] * 10 + [False] * 7 + [True] + [False] * 2
    paired = compare_paired(scores(ours), scores(theirs))
    assert (paired.only_candidate, paired.only_champion, paired.n) == (7, 1, 20)
    assert paired.p == pytest.approx(18 / 256)
    assert paired.test == "McNemar's exact test"
    assert (paired.candidate, paired.champion) == (pytest.approx(0.85), pytest.approx(0.55))
    assert paired.difference == pytest.approx(0.3)
    assert paired.verdict == "no difference"
    # Normal approximation: the standard error of the difference is sqrt(8/20 - 0.3^2) / sqrt(20).
    half_width = 1.96 * np.sqrt(0.4 - 0.09) / np.sqrt(20)
    assert paired.low == pytest.approx(0.3 - half_width, abs=0.06)
    assert paired.high == pytest.approx(0.3 + half_width, abs=0.06)


@pytest.mark.parametrize(("only_candidate", "only_champion", "verdict"), [(9, 1, "better"), (1, 9, "worse")])
def test_verdict_has_a_direction(only_candidate: int, only_champion: int, verdict: str) -> None:
    ours = [True] * only_candidate + [False] * only_champion + [True] * 10
    theirs = [False] * only_candidate + [True] * only_champion + [True] * 10
    paired = compare_paired(scores(ours), scores(theirs))
    assert paired.p == pytest.approx(2 * 11 / 1024)
    assert paired.verdict == verdict
    assert compare_paired(scores(theirs), scores(ours)).difference == pytest.approx(-paired.difference)


def test_equal_scores_are_no_difference() -> None:
    paired = compare_paired(scores([True, False] * 5), scores([True, False] * 5))
    assert (paired.p, paired.difference, paired.verdict) == (1.0, 0.0, "no difference")
    # Half a puzzle in each of the two cells: 0 +- 1.96 * sqrt(1) / (10 + 2)
    assert (paired.low, paired.high) == (pytest.approx(-1.96 / 12, abs=1e-4), pytest.approx(1.96 / 12, abs=1e-4))


def test_the_interval_has_a_width_if_one_model_solves_everything() -> None:
    paired = compare_paired(scores([True] * 20), scores([False] * 20))
    assert paired.difference == paired.high == 1.0
    # 20.5 and 0.5 of 22: 20 / 22 - 1.96 * sqrt(21 - 20^2 / 22) / 22
    low = 20 / 22 - 1.96 * np.sqrt(21 - 400 / 22) / 22
    assert paired.low == pytest.approx(low, abs=1e-4)
    several = {(str(task), n): True for task in range(20) for n in range(2)}
    paired = compare_paired(several, dict.fromkeys(several, False))
    assert (paired.low, paired.high) == (pytest.approx(low, abs=1e-4), 1.0)


def test_tasks_with_several_examples_count_by_fraction() -> None:
    """12 examples of 4 tasks are 4 observations."""
    ours = {(str(task), n): True for task in range(4) for n in range(3)}
    theirs = {name: name[1] == 0 for name in ours}
    paired = compare_paired(ours, theirs)
    assert (paired.n, paired.candidate, paired.champion) == (4, 1.0, pytest.approx(1 / 3))
    # All 4 signs are equal, as in 2 of the 16 permutations.
    assert paired.p == pytest.approx(2 / 16)
    assert paired.test == "permutation test over tasks"
    assert paired.verdict == "no difference"
