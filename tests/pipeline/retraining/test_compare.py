"""Comparing two results: statistics by hand, which puzzles decide, and what the report says."""

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.results import find_key, load_result
from pipeline.retraining.compare import Comparison, compare, pair
from pipeline.retraining.report import as_html, as_markdown, headline
from tests.pipeline.published_results import publish_result
from trm.config import Params, load_params
from trm.errors import UserError


def of(solved: list[bool]) -> dict[tuple[str, int], bool]:
    return {(str(n), 0): value for n, value in enumerate(solved)}


def test_mcnemar_by_hand() -> None:
    # 20 puzzles: 7 that only the candidate solves, 1 that only the champion does; of 8 coins at most 1 shows tails in
    # 2 * (1 + 8) / 256 of all cases.
    ours, theirs = [True] * 17 + [False] * 3, [True] * 10 + [False] * 7 + [True] + [False] * 2
    paired = pair(of(ours), of(theirs))
    assert (paired.only_candidate, paired.only_champion, paired.n) == (7, 1, 20)
    assert paired.p == pytest.approx(18 / 256)
    assert paired.test == "McNemar's exact test"
    assert (paired.candidate, paired.champion) == (pytest.approx(0.85), pytest.approx(0.55))
    assert paired.difference == pytest.approx(0.3)
    assert paired.verdict == "no difference"
    # A normal approximation: the differences' standard deviation is sqrt(8/20 - 0.3^2), over sqrt(20).
    reach = 1.96 * np.sqrt(0.4 - 0.09) / np.sqrt(20)
    assert paired.low == pytest.approx(0.3 - reach, abs=0.06)
    assert paired.high == pytest.approx(0.3 + reach, abs=0.06)


@pytest.mark.parametrize(("only_candidate", "only_champion", "verdict"), [(9, 1, "better"), (1, 9, "worse")])
def test_the_verdict_has_a_direction(only_candidate: int, only_champion: int, verdict: str) -> None:
    ours = [True] * only_candidate + [False] * only_champion + [True] * 10
    theirs = [False] * only_candidate + [True] * only_champion + [True] * 10
    paired = pair(of(ours), of(theirs))
    assert paired.p == pytest.approx(2 * 11 / 1024)
    assert paired.verdict == verdict
    assert pair(of(theirs), of(ours)).difference == pytest.approx(-paired.difference)


def test_equal_answers_are_no_difference() -> None:
    paired = pair(of([True, False] * 5), of([True, False] * 5))
    assert (paired.p, paired.low, paired.high, paired.verdict) == (1.0, 0.0, 0.0, "no difference")


def test_tasks_of_several_examples_count_by_their_share() -> None:
    """Examples of a task fall together: 12 examples in 4 tasks are 4 observations and not 12."""
    ours = {(str(task), n): True for task in range(4) for n in range(3)}
    theirs = {name: name[1] == 0 for name in ours}
    paired = pair(ours, theirs)
    assert (paired.n, paired.candidate, paired.champion) == (4, 1.0, pytest.approx(1 / 3))
    # All 4 signs alike: 2 of the 16 ways to draw them.
    assert paired.p == pytest.approx(2 / 16)
    assert paired.test == "permutation test over tasks"
    assert paired.verdict == "no difference"


def test_the_validation_puzzles_decide(root: str, tmp_path: Path) -> None:
    """On test puzzles the candidate is far worse, and that must choose nothing."""
    good = publish_result(root, tmp_path, [True] * 12, test=[False] * 12)
    bad = publish_result(root, tmp_path, [False] * 12, test=[True] * 12, lr=0.5)
    made = compare(load_result(root, good), load_result(root, bad))
    assert (made.split, made.verdict, made.paired.n) == ("validation", "better", 12)
    assert made.params == (("train.lr", 0.001, 0.5),)
    assert "test puzzles chose nothing" in as_markdown(made)


def test_without_validation_puzzles_the_test_puzzles_decide_and_it_is_said(root: str, tmp_path: Path) -> None:
    one = publish_result(root, tmp_path, [True] * 12, test=[False] * 12)
    other = publish_result(root, tmp_path, None, test=[True] * 12, lr=0.5)
    made = compare(load_result(root, one), load_result(root, other))
    assert (made.split, made.verdict) == ("test", "worse")
    for told in (as_markdown(made), as_html(made)):
        assert "Decided on TEST puzzles" in told
    assert "of 12 test puzzles" in headline(made)


def test_only_puzzles_in_common_count(root: str, tmp_path: Path) -> None:
    """Unknown answers and puzzles that one of the two was not asked are left out."""
    one = publish_result(root, tmp_path, [True, None, True, True])
    other = publish_result(root, tmp_path, [False, True, False], lr=0.5)
    made = compare(load_result(root, one), load_result(root, other))
    assert (made.paired.n, made.paired.candidate, made.paired.champion) == (2, 1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"raw": b"other puzzles"}, "these are different puzzles; compare results of one experiment"),
        ({"validation": [None], "test": [None]}, "have no puzzles with known answers in common"),
    ],
)
def test_what_cannot_be_compared(root: str, tmp_path: Path, changes: dict, said: str) -> None:
    one = publish_result(root, tmp_path, [True])
    other = publish_result(root, tmp_path, **{"validation": [False], "lr": 0.5, **changes})
    with pytest.raises(UserError, match=said):
        compare(load_result(root, one), load_result(root, other))


def params_at(root: str) -> Params:
    params = load_params("params.yaml")
    return params.model_copy(update={"cluster": params.cluster.model_copy(update={"root": root})})


def test_results_are_named_by_keys_and_their_first_digits(root: str, tmp_path: Path) -> None:
    key = publish_result(root, tmp_path, [True])
    params = params_at(root)
    assert find_key(params, key) == key
    assert find_key(params, key[:8]) == key
    with pytest.raises(UserError, match="there is no such result"):
        find_key(params, "0" * 12)
    with pytest.raises(UserError, match="there is no such result; name a run or a key"):
        load_result(root, "0" * 64)


def reported(root: str, tmp_path: Path) -> Comparison:
    one = publish_result(root, tmp_path, [True] * 12)
    other = publish_result(root, tmp_path, [False] * 12, lr=0.5)
    return compare(load_result(root, one), load_result(root, other))


def test_the_html_report_needs_nothing_else(root: str, tmp_path: Path) -> None:
    page = as_html(reported(root, tmp_path))
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|<script|url\((?!#)""", page.replace("xmlns:xlink", ""))
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 2  # training loss, validation
    assert "Training loss" in page
    assert "train.lr" in page


def test_what_stands_in_params_is_no_markup(root: str, tmp_path: Path) -> None:
    made = reported(root, tmp_path)
    object.__setattr__(made, "params", (("data.alphabet", "<script>alert(1)</script>", "a|b`c"),))
    assert "<script>" not in as_html(made)
    line = next(line for line in as_markdown(made).splitlines() if "data.alphabet" in line)
    assert line == "| data.alphabet | `<script>alert(1)</script>` | `a\\|b'c` |"
