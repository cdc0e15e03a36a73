"""Credentials that git gets in a workflow."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.git import git
from pipeline.github import push_credentials
from trm.utils.errors import UserError


def test_git_sends_the_token_to_the_server_of_the_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("GITHUB_TOKEN", "a-token")
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        for workflow_server in (f"{address}/", "https://github.example"):
            monkeypatch.setenv("GITHUB_SERVER_URL", workflow_server)
            with pytest.raises(UserError, match="git ls-remote failed"):
                git("ls-remote", f"{address}/owner/trm", env=push_credentials())
        server.shutdown()
        thread.join()
    expected = base64.b64encode(b"x-access-token:a-token").decode()
    assert seen == [f"Basic {expected}", None]  # and not to another server


def test_without_a_token_git_uses_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    assert push_credentials() == {}
