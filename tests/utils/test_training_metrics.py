"""Metrics of a training."""

from collections.abc import Mapping

import httpx
import pytest

from tests.apiserver import free_ports
from trm.utils.metrics_server import Gauge
from trm.utils.progress import progress
from trm.utils.training_metrics import (
    COMPLETED,
    GAUGES,
    LEFT,
    LOSS,
    PACE,
    PLANNED,
    RESTARTS,
    SKIPPED,
    STATE_AGE,
    VALIDATION,
    TrainingMetrics,
    exported,
)

LINES = {"train/loss": 0.25, "train/accuracy": None, "validation/exact_accuracy": 0.5, "train/skipped_batches": 2}


class Display:
    """Keeps what is displayed."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str]] = []

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.shown.append((amount, note))


class Training:
    """A training of 1000 steps that was resumed after 100, on a clock of the test."""

    def __init__(self, lines: Mapping[str, float | None]) -> None:
        self.time, self.saved, self.display = 5000.0, {"disk": 5000.0}, Display()
        self.metrics = TrainingMetrics(
            self.display, 1000, 100, lambda: lines, lambda: self.saved, now=lambda: self.time
        )

    def step(self, seconds: float, count: int = 1, amount: int = 1) -> None:
        for _ in range(count):
            self.time += seconds
            self.metrics.advance(amount, "loss")


def test_values_before_the_first_step() -> None:
    training = Training({})
    assert training.metrics.values() == {COMPLETED: 100, PLANNED: 1000, PACE: 0, STATE_AGE: {"disk": 0}, RESTARTS: 0}


def test_values_after_some_steps() -> None:
    training = Training(LINES)
    training.step(2, count=10)
    training.saved = {"disk": 5010.0, "s3": 5000.0}
    training.time += 5
    assert training.metrics.values() == {
        COMPLETED: 110,
        PLANNED: 1000,
        PACE: 10 / 25,
        LEFT: 890 / (10 / 25),
        LOSS: 0.25,
        VALIDATION: 0.5,
        SKIPPED: 2,
        STATE_AGE: {"disk": 15, "s3": 25},
        RESTARTS: 0,
    }
    assert set(training.metrics.values()) == set(GAUGES)
    assert training.display.shown == [(1, "loss")] * 10


def test_pace_is_that_of_the_last_minute() -> None:
    training = Training({})
    training.step(0.1, count=1000)
    assert training.metrics.values()[PACE] == pytest.approx(10)
    training.step(2, count=40)  # the last minute has 30 steps of 2 s
    assert training.metrics.values()[PACE] == pytest.approx(0.5)
    training.time += 300  # it hangs
    values = training.metrics.values()
    assert (values[PACE], LEFT in values) == (0, False)


def test_steps_that_are_rolled_back_count_again() -> None:
    training = Training({})
    training.step(1, count=20)
    training.step(1, amount=-20)
    values = training.metrics.values()
    assert (values[COMPLETED], values[PACE]) == (100, 0)


@pytest.mark.parametrize(("count", "expected"), [("3", 3), ("", 0), ("many", 0)])
def test_restarts_are_those_of_torchrun(count: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    assert Training({}).metrics.values()[RESTARTS] == expected


@pytest.mark.parametrize("is_main", [True, False])
def test_one_process_of_a_pod_serves(is_main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process of every worker, so that Prometheus finds all pods up; progress is that of the main process."""
    (port,) = free_ports(1)
    monkeypatch.setenv("TRM_METRICS_PORT", str(port))
    monkeypatch.setenv("LOCAL_RANK", "0")

    def text() -> str:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text

    with (
        progress("train", 10, 0, silent=True) as shown,
        exported(shown, 10, 0, dict, dict, is_main) as bar,
    ):
        bar.advance()
        assert ("trm_training_steps_completed 1.0\n" in text()) == is_main
        assert "trm_training_restarts 0.0\n" in text()
        monkeypatch.setenv("LOCAL_RANK", "1")
        with exported(shown, 10, 0, dict, dict, False) as other:
            assert other is shown


def test_names_are_valid_for_prometheus() -> None:
    """Units are at the end, and no gauge looks like a counter."""
    for gauge in GAUGES:
        assert isinstance(gauge, Gauge)
        assert gauge.name.startswith("trm_training_")
        assert not gauge.name.endswith(("_total", "_count", "_sum", "_bucket"))
