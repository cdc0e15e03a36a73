"""Client of the GitHub API: comments, pull requests, identity tokens, and outputs of workflow steps.

It is configured by the environment variables of GitHub Actions: GITHUB_API_URL, GITHUB_REPOSITORY, GITHUB_TOKEN. The
module is shared: retraining opens pull requests, and the Kubeflow client uses the identity token.
"""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from components.retry import is_transient_status, retry
from trm.utils.errors import InternalError, UserError

RETRY_TIMEOUT = 60.0
"""Seconds for which requests to an unavailable server are repeated."""
TIMEOUT = 30.0
ID_TOKEN_URL, ID_TOKEN_SECRET = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


def push_credentials() -> dict[str, str]:
    """Return the variables with which git sends $GITHUB_TOKEN to the server of the workflow; {} without a token.

    The checkout of a workflow stores no credentials (`persist-credentials: false`), and arguments of a process are
    visible to others.
    """
    token, server = os.environ.get("GITHUB_TOKEN", ""), os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    if not token:
        return {}
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server.rstrip('/')}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
    }


class Repository:
    """The repository of the running workflow. Raises `UserError` if GitHub refuses, else `InternalError`."""

    def __init__(self) -> None:
        self.name, token = os.environ.get("GITHUB_REPOSITORY", ""), os.environ.get("GITHUB_TOKEN", "")
        if not self.name or not token:
            raise UserError(
                "GITHUB_REPOSITORY or GITHUB_TOKEN is not set; add `env: {GITHUB_TOKEN: ...}` to the workflow's step"
            )
        self.server = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}

    def upsert_comment(self, number: int, marker: str, body: str) -> str:
        """Update the comment of pull request `number` that contains `marker`, or create one; return its URL."""
        assert marker in body
        for page in range(1, 100):
            comments = self._request("GET", f"issues/{number}/comments?per_page=100&page={page}")
            for comment in comments:
                if marker in (comment.get("body") or ""):
                    return self._request("PATCH", f"issues/comments/{comment['id']}", {"body": body})["html_url"]
            if len(comments) < 100:
                break
        return self._request("POST", f"issues/{number}/comments", {"body": body})["html_url"]

    def upsert_pull_request(self, branch: str, base: str, title: str, body: str) -> tuple[str, str]:
        """Update the newest pull request of `branch`, or create one; return its URL and state.

        The state is open, closed or merged. Closed pull requests are not reopened.
        """
        owner, text = self.name.partition("/")[0], {"title": title, "body": body}
        pulls = self._request("GET", f"pulls?state=all&head={owner}:{branch}&base={base}")
        if not pulls:
            return self._request("POST", "pulls", {**text, "head": branch, "base": base})["html_url"], "open"
        newest = max(pulls, key=lambda pull: pull["number"])
        self._request("PATCH", f"pulls/{newest['number']}", text)
        return newest["html_url"], "merged" if newest.get("merged_at") else newest["state"]

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"{self.server}/repos/{self.name}/{path}"
        return _request(method, url, f"{self.name}: {method} {path.partition('?')[0]}", self._headers, body)


def write_summary(markdown: str) -> None:
    """Append to the summary page of the workflow run. Does nothing outside of a workflow."""
    _append("GITHUB_STEP_SUMMARY", markdown)


def set_outputs(**values: str) -> None:
    """Set outputs of the workflow step. Does nothing outside of a workflow."""
    for name, value in values.items():
        if not value.isprintable():  # a line break would set further outputs
            raise InternalError(f"the output {name} contains control characters; it is not set")
    _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def id_token(audience: str) -> str | None:
    """Return an OIDC token of the workflow for `audience`; None without the permission `id-token: write`."""
    url, secret = os.environ.get(ID_TOKEN_URL), os.environ.get(ID_TOKEN_SECRET)
    if not url or not secret:
        return None
    headers = {"Authorization": f"Bearer {secret}"}
    return _request("GET", f"{url}&audience={audience}", "the workflow's identity token", headers)["value"]


def _append(variable: str, text: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _request(
    method: str, url: str, subject: str, headers: Mapping[str, str], body: Mapping[str, Any] | None = None
) -> Any:
    def send() -> Any:
        response = httpx.request(method, url, headers=dict(headers), json=body, timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()

    try:
        return retry(send, _is_transient, RETRY_TIMEOUT)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if _is_transient(error):
            raise InternalError(f"GitHub: {subject}: {status}, after {RETRY_TIMEOUT:.0f} s; try again later") from None
        raise UserError(
            f"GitHub rejected {subject} ({status}); check GITHUB_TOKEN and the permissions of the workflow"
        ) from None
    except httpx.HTTPError as error:
        raise InternalError(
            f"cannot connect to GitHub for {subject} ({type(error).__name__}), after {RETRY_TIMEOUT:.0f} s"
        ) from None
    except ValueError:
        raise InternalError(f"GitHub: {subject}: the response is not JSON; check GITHUB_API_URL") from None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return is_transient_status(error.response.status_code)
    return isinstance(error, httpx.TransportError)
