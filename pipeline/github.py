"""What the pipeline asks of GitHub's API: one comment that is updated, one pull request that is updated, a token.

Everything comes from the variables that GitHub Actions sets: GITHUB_API_URL, GITHUB_REPOSITORY, GITHUB_TOKEN.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from trm.utils.errors import InternalError, UserError

PATIENCE = 60.0
"""Seconds for which a server that is away is asked again."""
TIMEOUT = 30.0
ID_TOKEN_URL, ID_TOKEN_SECRET = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


class Repository:
    """The repository whose workflow runs here. Raises `UserError` where GitHub refuses, `InternalError` where it is away."""

    def __init__(self) -> None:
        self.name, token = os.environ.get("GITHUB_REPOSITORY", ""), os.environ.get("GITHUB_TOKEN", "")
        if not self.name or not token:
            raise UserError("GITHUB_REPOSITORY or GITHUB_TOKEN is not set; give a workflow's step `env: GITHUB_TOKEN`")
        self.server = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}

    def comment(self, number: int, marker: str, body: str) -> str:
        """Write the comment of pull request `number` that holds `marker`, or a new one; its address."""
        assert marker in body
        for page in range(1, 100):
            listed = self._ask("GET", f"issues/{number}/comments?per_page=100&page={page}")
            for comment in listed:
                if marker in (comment.get("body") or ""):
                    return self._ask("PATCH", f"issues/comments/{comment['id']}", {"body": body})["html_url"]
            if len(listed) < 100:
                break
        return self._ask("POST", f"issues/{number}/comments", {"body": body})["html_url"]

    def pull_request(self, branch: str, base: str, title: str, body: str) -> tuple[str, str]:
        """The pull request of a branch, new or brought up to date, and its state: open, closed or merged."""
        owner, text = self.name.partition("/")[0], {"title": title, "body": body}
        listed = self._ask("GET", f"pulls?state=all&head={owner}:{branch}&base={base}")
        if not listed:
            return self._ask("POST", "pulls", {**text, "head": branch, "base": base})["html_url"], "open"
        newest = max(listed, key=lambda request: request["number"])
        self._ask("PATCH", f"pulls/{newest['number']}", text)
        return newest["html_url"], "merged" if newest.get("merged_at") else newest["state"]

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self.server}/repos/{self.name}/{path}"
        return _answer(method, url, f"{self.name}: {method} {path.partition('?')[0]}", self._headers, body)


def write_summary(markdown: str) -> None:
    """Add to the page of the workflow's run; nothing happens outside of one."""
    _append("GITHUB_STEP_SUMMARY", markdown)


def set_outputs(**values: str) -> None:
    """Set outputs of the workflow's step; nothing happens outside of one."""
    assert all("\n" not in value for value in values.values())
    _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def id_token(audience: str) -> str | None:
    """A short-lived token of the workflow's own identity (OIDC); None where the workflow may not have one."""
    url, secret = os.environ.get(ID_TOKEN_URL), os.environ.get(ID_TOKEN_SECRET)
    if not url or not secret:
        return None
    headers = {"Authorization": f"Bearer {secret}"}
    return _answer("GET", f"{url}&audience={audience}", "the workflow's identity token", headers)["value"]


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _answer(method: str, url: str, what: str, headers: Mapping[str, str], body: Mapping[str, Any] | None = None) -> Any:
    tries = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(PATIENCE),
        wait=wait_exponential(multiplier=0.5, max=10),
        reraise=True,
    )

    def once() -> Any:
        answer = httpx.request(method, url, headers=dict(headers), json=body, timeout=TIMEOUT)
        answer.raise_for_status()
        return answer.json()

    try:
        return tries(once)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if _may_pass(error):
            raise InternalError(f"GitHub: {what}: {status}, after {PATIENCE:.0f} s; start again later") from None
        raise UserError(
            f"GitHub refuses {what} ({status}); check GITHUB_TOKEN and the workflow's permissions"
        ) from None
    except httpx.HTTPError as error:
        raise InternalError(f"GitHub cannot be reached for {what} ({type(error).__name__}), after {PATIENCE:.0f} s") from None
    except ValueError:
        raise InternalError(f"GitHub: {what}: the answer is not JSON; check GITHUB_API_URL") from None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)
