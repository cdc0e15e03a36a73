"""Message about the end of a run: the program of the exit handler, with a real S3 server and a real webhook."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.run_summary.notification import Outcome, notify
from pipeline.kfp.compile import pipeline_spec
from tests.conftest import ROOT
from tests.seaweed import artifact
from trm.config.cluster import ClusterParams
from trm.storage import s3

KEYS = {"fetch": "a" * 64, "train": "b" * 64}
FAILED = {"state": "FAILED", "error": {"code": 9, "message": "stage train: the loss is <nan>\nat step 7 & later"}}
PATH = "/services/T00/B00/credential"


@dataclass
class Webhook:
    """A server that keeps the messages."""

    codes: list[int] = field(default_factory=list)
    """Status codes of the next responses."""
    received: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    """Authorization header of each request."""

    def __post_init__(self) -> None:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert (self.path, self.headers["Content-Type"]) == (PATH, "application/json")
                webhook.tokens.append(self.headers["Authorization"])
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = webhook.codes.pop(0) if webhook.codes else 200
                if code == 200:
                    webhook.received.append(body)
                self.send_response(code)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}{PATH}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    server = Webhook()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def variables(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the exit handler."""
    for name, value in {"URL": webhook.url, "WHEN": "failed", "HOST": "http://kubeflow/"}.items():
        monkeypatch.setenv(f"TRM_NOTIFY_{name}", value)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def publish(root: str, folder: Path, *stages: str) -> None:
    for stage in stages:
        s3.publish(
            artifact(folder / stage, {"a.txt": b"a"}, stage=stage, key=KEYS[stage], facts={}),
            f"{root}/{stage}/{KEYS[stage]}",
        )


def end(root: str, folder: Path, status: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the program of the exit handler as Kubeflow does."""
    arguments = [json.dumps(status), str(folder / "summary.md"), root, "run-7"]
    arguments += [f"{stage}={key}" for stage, key in KEYS.items()]
    command = [sys.executable, "-m", "components.run_summary.summary", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
def test_failed_run_is_reported(root: str, webhook: Webhook, tmp_path: Path) -> None:
    publish(root, tmp_path, "fetch")
    webhook.codes = [503]  # once, then available
    ended = end(root, tmp_path, FAILED)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert webhook.received == [
        {
            "text": "trm: run run-7 failed at stage train: stage train: the loss is &lt;nan&gt; at step 7 &amp; later "
            "http://kubeflow/#/runs/details/run-7",
            "pipeline": "trm",
            "run": "run-7",
            "state": "failed",
            "stage": "train",
            "message": "stage train: the loss is <nan> at step 7 & later",
            "url": "http://kubeflow/#/runs/details/run-7",
        }
    ]
    assert (tmp_path / "summary.md").read_text().startswith("# Run failed: stage train has no artifact\n")


@pytest.mark.usefixtures("variables")
def test_issue_in_a_github_repository(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    notify(Outcome("trm", "run-7", "failed", "train", "no token"))
    monkeypatch.setenv("TRM_NOTIFY_TOKEN", "secret")
    notify(Outcome("trm", "run-7", "failed", "train", "loss\n```\n@user closes #1"))
    notify(Outcome("trm", "run-8", "unknown", None, ""))
    assert webhook.tokens == [None, "Bearer secret", "Bearer secret"]
    assert webhook.received[1:] == [
        {
            "title": "Run run-7 failed at stage train",
            "body": "Run `run-7` of pipeline `trm` failed at stage train.\n\nhttp://kubeflow/#/runs/details/run-7\n\n"
            "```text\nloss\n'''\n@user closes #1\n```",
        },
        {
            "title": "Run run-8 unknown",
            "body": "Run `run-8` of pipeline `trm` unknown.\n\nhttp://kubeflow/#/runs/details/run-8",
        },
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
def test_succeeded_run_is_reported_on_request(
    root: str, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(root, tmp_path, *KEYS)
    status = {"state": "RUNNING"}  # what some versions of Kubeflow report
    assert end(root, tmp_path, status).returncode == 0
    assert webhook.received == []
    monkeypatch.setenv("TRM_NOTIFY_WHEN", "finished")
    monkeypatch.delenv("TRM_NOTIFY_HOST")
    assert end(root, tmp_path, status).returncode == 0
    (message,) = webhook.received
    assert (message["text"], message["state"], message["stage"]) == ("trm: run run-7 succeeded", "succeeded", None)


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
def test_unreadable_storage_is_reported(
    root: str, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-key")
    ended = end(root, tmp_path, FAILED)
    assert ended.returncode == 2
    (message,) = webhook.received
    assert (message["state"], message["stage"]) == ("unknown", None)
    assert "another-key" not in json.dumps(message)
    assert message["text"].startswith("trm: run run-7 unknown: stage train: the loss is &lt;nan&gt; at step 7")


@pytest.mark.slow
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("fault", ["status 403", "ConnectError", "UnsupportedProtocol", "InvalidURL"])
def test_fault_of_the_webhook_is_one_warning_without_its_address(
    fault: str, root: str, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(root, tmp_path, "fetch")
    webhook.codes = [403]
    addresses = {"UnsupportedProtocol": "credential", "InvalidURL": "http://credential:port"}
    if fault == "ConnectError":
        webhook.http.server_close()
        code = "import components.run_summary.notification as n; n.RETRY_TIMEOUT = 1.0; import sys; "
        code += "from components.run_summary.summary import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", code, json.dumps(FAILED), str(tmp_path / "s"), root, "run-7", "fetch=a"]
        ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    else:
        monkeypatch.setenv("TRM_NOTIFY_URL", addresses.get(fault, webhook.url))
        ended = end(root, tmp_path, FAILED)
    assert ended.returncode == 0
    assert ended.stderr == f"run_summary: warning: the webhook did not take the message ({fault})\n"
    assert "credential" not in ended.stdout
    assert webhook.received == []


def test_only_the_exit_handler_has_the_webhook() -> None:
    cluster = ClusterParams.model_validate({"kfp_host": "http://kubeflow", "notify": {"secret": "hook"}})
    spec = pipeline_spec(cluster)
    executors = spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [name for name, each in executors.items() if "secretAsEnv" in each] == ["exec-run-summary"]
    (secret,) = executors["exec-run-summary"]["secretAsEnv"]
    assert secret["secretName"] == "hook"
    assert secret["keyToEnv"] == [
        {"envVar": f"TRM_NOTIFY_{name.upper()}", "secretKey": name} for name in ("url", "token")
    ]
    assert secret["optional"] is True  # a missing secret does not keep the exit handler from its summary
    containers = spec["pipeline_spec"]["deploymentSpec"]["executors"]
    assert containers["exec-run-summary"]["container"]["env"] == [
        {"name": "TRM_NOTIFY_WHEN", "value": "failed"},
        {"name": "TRM_NOTIFY_HOST", "value": "http://kubeflow"},
    ]
    assert "TRM_NOTIFY" not in json.dumps({name: each for name, each in containers.items() if "summary" not in name})


def test_kubeflow_inserts_the_id_of_the_run() -> None:
    """The driver of Kubeflow Pipelines replaces a constant that is exactly this placeholder."""
    task = pipeline_spec(ClusterParams())["pipeline_spec"]["root"]["dag"]["tasks"]["run-summary"]
    assert task["inputs"]["parameters"]["run"] == {"runtimeValue": {"constant": "{{$.pipeline_job_uuid}}"}}
