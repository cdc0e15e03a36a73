"""The risk-coverage curve of the HTML report against values worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reporting.test_page_numbers import write_predictions
from trm.reporting import statistics
from trm.reporting.html import sections
from trm.reporting.predictions import read_predictions


def test_risk_coverage_by_hand() -> None:
    """The two puzzles at 0.9 answer together: one of them is correct; then 0.6, correct, and 0.2, wrong."""
    found = statistics.risk_coverage(np.array([0.9, 0.2, 0.9, 0.6]), np.array([True, False, False, True]))
    assert found.min_confidence.tolist() == [0.9, 0.6, 0.2]
    assert (found.answered.tolist(), found.correct.tolist()) == ([2, 3, 4], [1, 2, 2])
    assert found.coverage.tolist() == [0.5, 0.75, 1]
    assert found.area == pytest.approx((2 * 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert [found.at(coverage) for coverage in (0.1, 0.5, 0.51, 0.75, 0.8, 1.0)] == [0, 0, 1, 1, 2, 2]


@given(st.lists(st.tuples(st.sampled_from((0.0, 0.25, 0.5, 1.0)), st.booleans()), min_size=1, max_size=30))
def test_risk_coverage_equals_counting(puzzles: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(column) for column in zip(*puzzles, strict=True))
    found = statistics.risk_coverage(confidence, correct)
    answered = [[right for other, right in puzzles if other >= value] for value, _ in puzzles]
    assert found.area == pytest.approx(np.mean([1 - np.mean(each) for each in answered]))
    for value, count, right in zip(found.min_confidence, found.answered, found.correct, strict=True):
        assert (count, right) == ((confidence >= value).sum(), correct[confidence >= value].sum())
    assert found.coverage[-1] == 1


def test_section_on_selective_prediction(tmp_path: Path) -> None:
    """Ten puzzles: the eight most confident are correct."""
    rows = [{"exact": number < 8, "correct": number < 8, "confidence": (10 - number) / 10} for number in range(10)]
    section = sections.selective_prediction(read_predictions(write_predictions(tmp_path / "p", rows)), "settled")
    assert section is not None and section.plot is not None
    assert section.definition.startswith("the fraction of the sequences")
    assert section.area == pytest.approx((1 / 9 + 2 / 10) / 10)
    assert [[*row[:4], row[4].partition(" ")[0]] for row in section.plot.table.rows] == [
        ["at least 50\u00a0%", "0.6", "50.0\u00a0%", "5", "100.0\u00a0%"],
        ["at least 80\u00a0%", "0.3", "80.0\u00a0%", "8", "100.0\u00a0%"],
        ["at least 90\u00a0%", "0.2", "90.0\u00a0%", "9", "88.9\u00a0%"],
        ["at least 100\u00a0%", "0.1", "100.0\u00a0%", "10", "80.0\u00a0%"],
    ]
    assert "at least 90\u00a0%: 88.9\u00a0%" in section.plot.svg
    rows = [{"exact": True, "correct": True, "confidence": 0.56669}, *rows]
    more = sections.selective_prediction(read_predictions(write_predictions(tmp_path / "s", rows)), "votes")
    assert more is not None and more.plot is not None
    assert "0.5666" in [row[1] for row in more.plot.table.rows]  # rounded down
    single = sections.selective_prediction(read_predictions(write_predictions(tmp_path / "q", rows[:1])), "votes")
    assert single is not None and single.plot is None
    unknown = read_predictions(write_predictions(tmp_path / "r", [{}, {}]))
    assert sections.selective_prediction(unknown, "votes") is None
