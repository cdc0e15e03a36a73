"""The line that announces a long operation."""

import pytest

from trm.utils import progress as module
from trm.utils.progress import progress


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "PLAIN_LINE_INTERVAL", 1e9)
    return clock


def work(clock: Clock, durations: list[float], total: int, done: int = 0, silent: bool = False) -> None:
    with progress("dig", total, done, silent=silent, announce=lambda time: f"all takes {time}") as bar:
        for seconds in durations:
            clock.now += seconds
            bar.advance()


def test_long_operations_are_announced_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten pieces are done before; the first new one is slow and does not count; 89 others take a second each."""
    work(clock, [50.0, *[1.0] * 20], total=100, done=10)
    assert capsys.readouterr().err == "dig: all takes 1:29\ndig: 31 done in 1:10\n"


@pytest.mark.parametrize(
    ("durations", "total", "silent"),
    [([50.0, *[1.0] * 10], 20, False), ([50.0, 1.9], 1000, False), ([50.0, *[1.0] * 10], 1000, True)],
    ids=["short", "unknown", "silent"],
)
def test_not_announced(
    clock: Clock, capsys: pytest.CaptureFixture[str], durations: list[float], total: int, silent: bool
) -> None:
    work(clock, durations, total, silent=silent)
    assert "all takes" not in capsys.readouterr().err
