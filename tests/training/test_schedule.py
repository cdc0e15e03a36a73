import json
from pathlib import Path

import pytest

from trm.training.schedule import learning_rate


def test_by_hand() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, base=2.0, warmup=4, total=12, min_ratio=0.5)

    assert [rate(step) for step in (1, 2, 3, 4)] == [0.5, 1.0, 1.5, 2.0]
    assert rate(8) == pytest.approx(2 * (0.5 + 0.5 * 0.5))  # half-way down: cos(pi / 2) = 0
    assert rate(12) == pytest.approx(1.0)


def test_ratio_1_is_constant_and_no_warmup_starts_at_the_base() -> None:
    assert [learning_rate(step, 3.0, 0, 10, 1.0) for step in (1, 5, 10)] == [3.0, 3.0, 3.0]


def test_warmup_as_long_as_the_run() -> None:
    assert [learning_rate(step, 1.0, 4, 4, 0.0) for step in (2, 4)] == [0.5, 1.0]


def test_equals_published_code(goldens: Path) -> None:
    rows = json.loads((goldens / "schedule.json").read_text())["rows"]
    for row in rows:
        ours = learning_rate(row["step"], row["base_lr"], row["warmup"], row["total"], row["min_ratio"])
        assert ours == pytest.approx(row["lr"], rel=1e-12)
