"""Comparison of two results: statistics by hand, choice of the puzzles, and reports."""

import re
from pathlib import Path

import pytest

from pipeline.results import load_result, resolve_key
from pipeline.retraining.compare import Comparison, compare
from pipeline.retraining.report import as_html, as_markdown, headline
from tests.pipeline.published_results import publish_result
from trm.config.params import Params
from trm.stages.params import load_params
from trm.utils.errors import UserError


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
