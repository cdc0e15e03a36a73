"""Retries of requests to HTTP APIs."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

ResultT = TypeVar("ResultT")
MAX_PAUSE = 10.0
"""Longest pause between two attempts, in seconds. The first is half a second, each further one twice as long."""


def retry(
    request: Callable[[], ResultT],
    is_transient: Callable[[BaseException], bool],
    timeout: float,
    on_first_failure: Callable[[], None] = lambda: None,
) -> ResultT:
    """Return the result of `request`, repeated while it fails with transient errors.

    Args:
        request: The request. It must be idempotent.
        is_transient: Returns True for errors after which the request is repeated.
        timeout: Seconds after which the last error is raised.
        on_first_failure: Called once, before the first pause.
    """

    def before_sleep(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            on_first_failure()

    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_delay(timeout),
        wait=wait_exponential(multiplier=0.5, max=MAX_PAUSE),
        before_sleep=before_sleep,
        reraise=True,
    )
    return retrying(request)


def is_transient_status(status: int | None) -> bool:
    """Return True for HTTP status codes after which a request may be repeated: 429 and 5xx."""
    return status is not None and (status == 429 or status >= 500)
