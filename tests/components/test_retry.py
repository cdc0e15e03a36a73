"""Retries of requests."""

import pytest

from components import retry as module
from components.retry import is_transient_status, retry


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAUSE", 0.01)


class Request:
    """Fails with these errors, one per call, then returns "done"."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError)


def test_transient_errors_are_retried_and_announced_once() -> None:
    request, announced = Request(TimeoutError(), TimeoutError(), TimeoutError()), []
    assert retry(request, is_timeout, 5.0, lambda: announced.append(1)) == "done"
    assert (request.calls, announced) == (4, [1])


def test_other_errors_are_raised_at_once() -> None:
    request = Request(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        retry(request, is_timeout, 5.0)
    assert request.calls == 1


def test_last_error_is_raised_after_the_timeout() -> None:
    with pytest.raises(TimeoutError, match="^[0-9]+$"):
        retry(Request(*(TimeoutError(number) for number in range(1000))), is_timeout, 0.1)


@pytest.mark.parametrize(
    ("status", "transient"), [(None, False), (200, False), (404, False), (429, True), (500, True), (503, True)]
)
def test_transient_status_codes(status: int | None, transient: bool) -> None:
    assert is_transient_status(status) is transient
