"""Message to a webhook at the end of a run. Whatever happens to it, the run ends as it would without.

The address of a webhook is a credential: it comes from a secret of the cluster and is never printed.
"""

import os
import sys
from dataclasses import asdict, dataclass

import httpx

from components.retry import is_transient_status, retry
from trm.utils.output import printable_lines

WEBHOOK, TOKEN, WHEN, HOST = "TRM_NOTIFY_URL", "TRM_NOTIFY_TOKEN", "TRM_NOTIFY_WHEN", "TRM_NOTIFY_HOST"
"""Variables with the address of the webhook, the token of GitHub's API, `cluster.notify.when`, and
`cluster.kfp_host`."""
WEBHOOK_KEY, TOKEN_KEY = "url", "token"
"""Keys of the secret `cluster.notify.secret`."""
TIMEOUT = 10.0
"""Seconds for one request."""
RETRY_TIMEOUT = 30.0
"""Seconds for which a request to an unavailable server is repeated."""
MAX_MESSAGE = 500
"""Characters of the error message."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    pipeline: str
    run: str
    """Id of the run."""
    state: str
    """`succeeded`, `failed`, or `unknown` if S3 is not readable."""
    stage: str | None
    """The first stage without a result."""
    message: str
    """The error as Kubeflow reports it; "" if there is none."""


def notify(outcome: Outcome) -> None:
    """Send the outcome to the webhook, if there is one that wants it. A failure is one warning."""
    url = os.environ.get(WEBHOOK)
    if not url or (outcome.state == "succeeded" and os.environ.get(WHEN) != "finished"):
        return
    body, headers = {"text": _text(outcome), **asdict(outcome), "url": _run_url(outcome)}, {}
    if token := os.environ.get(TOKEN):
        body, headers = _issue(outcome), {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}

    def request() -> None:
        httpx.post(url, json=body, headers=headers, timeout=TIMEOUT).raise_for_status()

    try:
        retry(request, _is_transient, RETRY_TIMEOUT)
    except httpx.HTTPStatusError as error:
        _warn(f"status {error.response.status_code}")
    except Exception as error:  # messages of httpx can contain the address
        _warn(type(error).__name__)


def _text(outcome: Outcome) -> str:
    """Return the message in one line, in the notation of Slack."""
    stage = f" at stage {outcome.stage}" if outcome.stage else ""
    message = " ".join(printable_lines(outcome.message).split())[:MAX_MESSAGE]
    text = f"{outcome.pipeline}: run {outcome.run} {outcome.state}{stage}" + (f": {message}" if message else "")
    for character, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.items():
        text = text.replace(character, entity)
    url = _run_url(outcome)
    return f"{text} {url}" if url else text


def _issue(outcome: Outcome) -> dict[str, str]:
    """Return the body of GitHub's request to create an issue (https://docs.github.com/rest/issues/issues).

    The message is a code block: it comes from outside, and must not mention users or close other issues.
    """
    stage = f" at stage {outcome.stage}" if outcome.stage else ""
    message = printable_lines(outcome.message)[:MAX_MESSAGE].replace("`", "'")
    parts = [f"Run `{outcome.run}` of pipeline `{outcome.pipeline}` {outcome.state}{stage}.", _run_url(outcome)]
    parts.append(f"```text\n{message}\n```" if message else "")
    return {"title": f"Run {outcome.run} {outcome.state}{stage}", "body": "\n\n".join(filter(None, parts))}


def _run_url(outcome: Outcome) -> str:
    """Return the run's address in the web UI; "" if it is unknown."""
    host = os.environ.get(HOST)
    return f"{host.rstrip('/')}/#/runs/details/{outcome.run}" if host else ""


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return is_transient_status(error.response.status_code)
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _warn(reason: str) -> None:
    print(f"run_summary: warning: the webhook did not take the message ({reason})", file=sys.stderr, flush=True)
