"""Publication of a result: a git remote, a DVC remote, and a fake GitHub API."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import github
from pipeline.retraining.publish import publish
from trm.utils.errors import InternalError, UserError

KEY = "0123456789abcdef" * 4
BRANCH = f"retrain/{KEY[:12]}"


class FakeGitHub:
    """Stores comments and pull requests, and implements the used part of the GitHub API."""

    def __init__(self) -> None:
        self.comments: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.errors: list[int] = []
        """Status codes of the next responses."""
        self.requests: list[str] = []
        self.token = "a-token"
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                path, _, query = self.path.partition("?")
                hub.requests.append(f"{self.command} {path}")
                if hub.errors:
                    status, response = hub.errors.pop(0), {"message": "try later"}
                elif self.headers["Authorization"] != f"Bearer {hub.token}":
                    status, response = 401, {"message": "Bad credentials"}
                else:
                    status, response = (
                        200,
                        hub.respond(self.command, path.removeprefix("/repos/owner/trm/"), query, body),
                    )
                data = json.dumps(response).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = _serve  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def respond(self, method: str, path: str, query: str, body: dict[str, Any]) -> Any:  # noqa: PLR0911 - one per path
        """Return the body of the response."""
        match method, path.split("/"):
            case "GET", ["token"]:
                assert query == "api-version=2&audience=pipelines.kubeflow.org"
                return {"value": "an-identity"}
            case "GET", ["issues", _, "comments"]:
                page = int(query.rpartition("=")[2])
                return self.comments[100 * (page - 1) : 100 * page]
            case "POST", ["issues", number, "comments"]:
                self.comments.append({"id": len(self.comments), "html_url": f"comment-{number}", **body})
                return self.comments[-1]
            case "PATCH", ["issues", "comments", number]:
                self.comments[int(number)].update(body)
                return self.comments[int(number)]
            case "GET", ["pulls"]:
                return [pull for pull in self.pulls if f"head=owner:{pull['head']}&base={pull['base']}" in query]
            case "POST", ["pulls"]:
                number = len(self.pulls) + 1
                self.pulls.append(
                    {"number": number, "html_url": f"pull-{number}", "state": "open", "merged_at": None, **body}
                )
                return self.pulls[-1]
            case "PATCH", ["pulls", number]:
                self.pulls[int(number) - 1].update(body)
                return self.pulls[int(number) - 1]
        raise AssertionError((method, path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGitHub]:
    hub = FakeGitHub()
    monkeypatch.setattr(github, "RETRY_TIMEOUT", 3.0)
    for name, value in {"API_URL": hub.url, "REPOSITORY": "owner/trm", "TOKEN": hub.token}.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def git(*arguments: str, cwd: Path | None = None) -> str:
    identity = ["-c", "user.name=a tester", "-c", "user.email=tester@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout.rstrip("\n")


@pytest.fixture
def remote(dvc_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare repository. The working directory is a clone with a collected result."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.org")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    bare, clone = tmp_path / "bare", tmp_path / "clone"
    git("init", "-q", "--bare", "-b", "main", str(bare))
    git("clone", "-q", str(bare), str(clone))
    monkeypatch.chdir(clone)
    git("checkout", "-q", "-b", "main")
    shutil.copytree(dvc_files, clone, dirs_exist_ok=True)
    (clone / "params.yaml").write_text("lr: 1\n")
    git("add", "-A")
    git("commit", "-qm", "the experiment")
    git("push", "-q", "origin", "main")
    (clone / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    collected(0.75)
    return bare


def collected(accuracy: float) -> None:
    Path("metrics.json").write_text(json.dumps({"keys": {"evaluate": KEY}, "metrics": {"exact_accuracy": accuracy}}))
    Path("runs.tsv").write_text("stage\tkey\n")


def test_publish_creates_one_branch_and_one_pull_request(remote: Path, hub: FakeGitHub, tmp_path: Path) -> None:
    Path("scratch.txt").write_text("untracked")
    Path("params.yaml").write_text("lr: 2\n")
    Path("report.md").write_text("### The candidate is better\n")
    before = git("status", "--porcelain"), git("rev-parse", "HEAD")
    assert publish("main", Path("report.md")) == "pull-1"
    assert (git("status", "--porcelain"), git("rev-parse", "HEAD")) == before
    changed = git("diff", "--name-only", f"main...{BRANCH}", cwd=remote).splitlines()
    assert changed == ["dvc.lock", "metrics.json", "runs.tsv"]
    (pull,) = hub.pulls
    assert (pull["head"], pull["base"], pull["title"]) == (BRANCH, "main", f"Result {KEY[:12]}: exact accuracy 75.0 %")
    assert pull["body"].startswith("### The candidate is better")
    assert KEY in pull["body"]
    # The same result gives the same commit and the same pull request.
    commit = git("rev-parse", BRANCH, cwd=remote)
    assert publish("main", None) == "pull-1"
    assert git("rev-parse", BRANCH, cwd=remote) == commit
    assert len(hub.pulls) == 1
    assert "without comparison" in hub.pulls[0]["body"]
    # A new result under the same key replaces the commit of the branch.
    collected(0.8)
    publish("main", None)
    assert git("rev-parse", BRANCH, cwd=remote) != commit
    assert hub.pulls[0]["title"].endswith("80.0 %")
    assert len(hub.pulls) == 1


def test_closed_pull_request_is_not_reopened(remote: Path, hub: FakeGitHub, capsys: pytest.CaptureFixture[str]) -> None:
    publish("main", None)
    hub.pulls[0]["state"] = "closed"
    assert publish("main", None) == "pull-1"
    assert "is closed and is not reopened" in capsys.readouterr().err
    assert (len(hub.pulls), hub.pulls[0]["state"]) == (1, "closed")


def test_without_token_only_the_branch_is_pushed(
    remote: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    assert publish("main", None) == BRANCH
    assert BRANCH in git("branch", "--list", "retrain/*", cwd=remote)
    assert "GITHUB_TOKEN is not set" in capsys.readouterr().err


def test_publish_reports_missing_files_and_git_failures(remote: Path, hub: FakeGitHub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nosuch\.md: no such file; run `python -m pipeline compare`"):
        publish("main", Path("nosuch.md"))
    git("remote", "set-url", "origin", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="git push failed"):
        publish("main", None)
    Path("metrics.json").write_text("{}")
    with pytest.raises(UserError, match="not written by `collect`"):
        publish("main", None)
    Path("metrics.json").unlink()
    with pytest.raises(UserError, match="no such file; .* `python -m pipeline collect` first"):
        publish("main", None)
    assert hub.requests == []


def test_comment_is_updated(hub: FakeGitHub) -> None:
    hub.comments = [{"id": n, "html_url": "other", "body": f"words {n}"} for n in range(150)]
    repository = github.Repository()
    assert repository.upsert_comment(7, "<!-- plan -->", "<!-- plan -->\nfirst") == "comment-7"
    repository.upsert_comment(7, "<!-- plan -->", "<!-- plan -->\nsecond")
    assert [comment["body"] for comment in hub.comments[150:]] == ["<!-- plan -->\nsecond"]


def test_requests_to_a_busy_server_are_retried(hub: FakeGitHub) -> None:
    hub.errors = [502, 429]
    github.Repository().upsert_comment(7, "x", "x")
    assert len(hub.comments) == 1
    hub.errors = [500] * 100
    with pytest.raises(InternalError, match="500, after"):
        github.Repository().upsert_comment(7, "x", "x")
    hub.errors = []
    hub.token = "another"
    with pytest.raises(UserError, match=r"GitHub rejected .* \(401\)"):
        github.Repository().upsert_comment(7, "x", "x")


def test_id_token(hub: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert github.id_token("pipelines.kubeflow.org") is None
    monkeypatch.setenv(github.ID_TOKEN_URL, f"{hub.url}/repos/owner/trm/token?api-version=2")
    monkeypatch.setenv(github.ID_TOKEN_SECRET, hub.token)
    assert github.id_token("pipelines.kubeflow.org") == "an-identity"
