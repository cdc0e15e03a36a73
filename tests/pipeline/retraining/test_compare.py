"""Comparison of two results: statistics by hand, choice of the puzzles, and reports."""

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.results import load_result, resolve_key
from pipeline.retraining.compare import Comparison, compare, compare_paired
from pipeline.retraining.report import as_html, as_markdown, headline
from tests.pipeline.published_results import publish_result
from trm.config.params import Params
from trm.stages.params import load_params
from trm.utils.errors import UserError


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
    assert (paired.p, paired.low, paired.high, paired.verdict) == (1.0, 0.0, 0.0, "no difference")


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


def test_validation_puzzles_decide(root: str, tmp_path: Path) -> None:
    """The candidate is much worse on the test puzzles, which must not affect the verdict."""
    good = publish_result(root, tmp_path, [True] * 12, test=[False] * 12)
    bad = publish_result(root, tmp_path, [False] * 12, test=[True] * 12, lr=0.5)
    comparison = compare(load_result(root, good), load_result(root, bad))
    assert (comparison.split, comparison.verdict, comparison.paired.n) == ("validation", "better", 12)
    assert comparison.params == (("train.lr", 0.001, 0.5),)
    assert "Test puzzles are not used for model selection" in as_markdown(comparison)


def test_fallback_to_test_puzzles_is_compared(root: str, tmp_path: Path) -> None:
    one = publish_result(root, tmp_path, [True] * 12, test=[False] * 12)
    other = publish_result(root, tmp_path, None, test=[True] * 12, lr=0.5)
    comparison = compare(load_result(root, one), load_result(root, other))
    assert (comparison.split, comparison.verdict) == ("test", "worse")
    for text in (as_markdown(comparison), as_html(comparison)):
        assert "Compared on TEST puzzles" in text
    assert "of 12 test puzzles" in headline(comparison)


def test_only_common_puzzles_count(root: str, tmp_path: Path) -> None:
    """Puzzles without a known solution, or without a prediction of one model, are ignored."""
    one = publish_result(root, tmp_path, [True, None, True, True])
    other = publish_result(root, tmp_path, [False, True, False], lr=0.5)
    comparison = compare(load_result(root, one), load_result(root, other))
    assert (comparison.paired.n, comparison.paired.candidate, comparison.paired.champion) == (2, 1.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw": b"other puzzles"}, "different puzzles; compare results with the same raw data"),
        ({"validation": [None], "test": [None]}, "have no puzzles with known solutions in common"),
    ],
)
def test_incomparable_results_are_rejected(root: str, tmp_path: Path, changes: dict, message: str) -> None:
    one = publish_result(root, tmp_path, [True])
    other = publish_result(root, tmp_path, **{"validation": [False], "lr": 0.5, **changes})
    with pytest.raises(UserError, match=message):
        compare(load_result(root, one), load_result(root, other))


def params_at(root: str) -> Params:
    params = load_params("params.yaml")
    return params.model_copy(update={"cluster": params.cluster.model_copy(update={"artifact_root": root})})


def test_results_are_found_by_key_prefix(root: str, tmp_path: Path) -> None:
    key = publish_result(root, tmp_path, [True])
    params = params_at(root)
    assert resolve_key(params, key) == key
    assert resolve_key(params, key[:8]) == key
    with pytest.raises(UserError, match="no such result"):
        resolve_key(params, "0" * 12)
    with pytest.raises(UserError, match="no such result; pass a run id or the content key"):
        load_result(root, "0" * 64)


def compared(root: str, tmp_path: Path) -> Comparison:
    one = publish_result(root, tmp_path, [True] * 12)
    other = publish_result(root, tmp_path, [False] * 12, lr=0.5)
    return compare(load_result(root, one), load_result(root, other))


def test_html_report_is_self_contained(root: str, tmp_path: Path) -> None:
    page = as_html(compared(root, tmp_path))
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|<script|url\((?!#)""", page.replace("xmlns:xlink", ""))
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 2  # training loss, validation
    assert "Training loss" in page
    assert "train.lr" in page


def test_params_are_escaped_in_reports(root: str, tmp_path: Path) -> None:
    comparison = compared(root, tmp_path)
    object.__setattr__(comparison, "params", (("data.alphabet", "<script>alert(1)</script>", "a|b`c"),))
    assert "<script>" not in as_html(comparison)
    line = next(line for line in as_markdown(comparison).splitlines() if "data.alphabet" in line)
    assert line == "| data.alphabet | `<script>alert(1)</script>` | `a\\|b'c` |"
