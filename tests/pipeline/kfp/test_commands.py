"""Commands submit, watch, stop and collect against a fake Kubeflow Pipelines server."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

import pipeline.kfp.client as client_module
import pipeline.kfp.submit as submit_module
import pipeline.kfp.watch as watch_module
from pipeline.cli import main
from pipeline.kfp.definition import run_arguments
from tests.conftest import ROOT
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.utils.errors import UserError

IMAGE = f"registry.example/trm@sha256:{'0' * 64}"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKfpServer]:
    monkeypatch.setattr(client_module, "RETRY_TIMEOUT", 5.0)
    monkeypatch.setattr(watch_module, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(submit_module.s3, "read_manifest", lambda uri: {"key": uri})  # all artifacts are in S3
    for name in (client_module.TOKEN_VARIABLE, "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with kfp_server() as server:
        yield server


@pytest.fixture
def params_file(server: FakeKfpServer, tmp_path: Path) -> Path:
    """The repository's experiment on this server, without S3."""
    from trm.config.recipes import KEPT_SECTIONS, split_sections

    text, _ = split_sections((ROOT / "params.yaml").read_text(), KEPT_SECTIONS)
    file = tmp_path / "params.yaml"
    file.write_text(
        f"{text}\ncluster:\n  kfp_host: {server.host}/\n  image: {IMAGE}\n  artifact_root: s3://bucket/trm\n"
    )
    return file


@pytest.fixture
def run(params_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `python -m pipeline ...` in this process; returns exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments, "--params", str(params_file)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_submit_starts_one_run_of_an_experiment(run: Run, server: FakeKfpServer, params_file: Path) -> None:
    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    assert f"{server.host}/#/runs/details/run-1" in err
    assert err.splitlines()[-1] == f"next: python -m pipeline watch run-1 --params {params_file}"
    params = load_params(params_file)
    (body,) = server.bodies
    wanted = run_arguments(params, content_keys(params), "s3://bucket/trm")
    assert body["runtime_config"] == {"parameters": wanted, "pipeline_root": "s3://bucket/trm"}
    assert body["experiment_id"] == "e-1"
    assert body["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "trm"
    executors = body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}

    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    assert "exists (pending" in err
    assert run("submit", "--force")[1] == "run-2\n"
    assert run("submit")[1] == "run-2\n"  # the newest
    assert len(server.bodies) == 2


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "CANCELING"])
def test_failed_run_is_submitted_again(run: Run, server: FakeKfpServer, state: str) -> None:
    run("submit")
    server.runs["run-1"].state = state
    assert run("submit")[1] == "run-2\n"


def test_other_params_start_another_run(run: Run, server: FakeKfpServer, params_file: Path) -> None:
    run("submit")
    params_file.write_text(params_file.read_text().replace("votes: 4", "votes: 3"))
    assert run("submit")[1] == "run-2\n"
    params_file.write_text(params_file.read_text().replace("s3://bucket/trm", "s3://bucket/elsewhere"))
    assert run("submit")[1] == "run-3\n"


def test_lost_response_does_not_create_two_runs(run: Run, server: FakeKfpServer) -> None:
    server.lost_responses = 1
    code, out, err = run("submit")
    assert (code, out, len(server.runs)) == (0, "run-1\n", 1)
    assert "is not available; retrying" in err
    server.lost_responses = 1
    assert run("submit", "--force")[1] == "run-2\n"
    assert len(server.runs) == 2


def test_watch_prints_changes_until_the_run_succeeds(run: Run, server: FakeKfpServer) -> None:
    run("submit")
    server.script = [
        {"state": "RUNNING", "tasks": {"fetch": "RUNNING"}, "logs": {"trm-fetch-impl": "one\n"}},
        {"logs": {"trm-fetch-impl": "one\ntwo\n"}},
        {"tasks": {"fetch": "RUNNING"}},
        {"state": "SUCCEEDED", "tasks": {"fetch": "SKIPPED"}},
    ]
    code, out, err = run("watch", "run-1")
    assert code == 0
    assert out.splitlines() == ["fetch | one", "fetch: running", "fetch | two", "fetch: skipped"]
    assert "run run-1 succeeded" in err


def test_logs(run: Run, server: FakeKfpServer) -> None:
    run("submit")
    assert "run run-1: no log is available" in run("logs", "run-1")[2]
    first = {"state": "RUNNING", "tasks": {"fetch": "SUCCEEDED", "train": "RUNNING"}}
    end = {"state": "SUCCEEDED", "logs": {"trm-train-impl": "a\nb\n"}}
    server.script = [first | {"logs": {"trm-fetch-impl": "one\n", "trm-train-impl": "a\n"}}, {}, end]
    assert run("logs", "run-1")[1] == "fetch | one\ntrain | a\n"
    assert run("logs", "run-1", "--stage", "train", "--follow")[:2] == (0, "a\nb\n")
    assert "--stage must be one of fetch, augment" in run("logs", "run-1", "--stage", "test")[2]


def test_runs(run: Run, server: FakeKfpServer) -> None:
    assert run("runs")[1:] == ("", "no runs\n")
    run("submit")
    server.runs["run-1"].state = "FAILED"
    run("submit", "--force")
    newest, older = run("runs")[1].splitlines()
    assert (newest.split()[0], older.split()[:4]) == ("run-2", ["run-1", "2026-11-22", "00:01", "failed"])
    assert [row["id"] for row in json.loads(run("runs", "--state", "failed", "--json")[1])] == ["run-1"]
    assert run("runs", "--state", "succeeded")[2] == "no runs in state succeeded\n"


def test_escape_sequences_are_not_printed(run: Run, server: FakeKfpServer) -> None:
    """Names, logs and messages of a run can contain any text."""
    run("submit")
    server.runs["run-1"].display_name = "trm\x1b[2J"
    server.script = [
        {"state": "RUNNING", "tasks": {"fetch": "RUNNING"}, "logs": {"trm-fetch-impl": "one\x1b]0;title\x07\n\ttwo\n"}},
        {"state": "FAILED", "tasks": {"fetch": "FAILED"}, "problem": "\x1b[31mred \u202eder"},
    ]
    code, out, err = run("watch", "run-1")
    assert code == 1
    assert out.splitlines()[:2] == ["fetch | one ]0;title ", "fetch | \ttwo"]
    assert not set("\x1b\x07\u202e") & set(out + err)


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_watch_fails_unless_the_run_succeeded(run: Run, server: FakeKfpServer, state: str) -> None:
    run("submit")
    server.script = [
        {"state": "RUNNING", "tasks": {"train": "RUNNING"}},
        {"state": state, "tasks": {"train": "FAILED"}, "problem": "the loss is nan\nat step 7"},
    ]
    code, _, err = run("watch", "run-1")
    assert code == 1
    assert err.splitlines()[-1] == f"pipeline: run run-1 {state.lower()}: stage train: the loss is nan at step 7"


def test_watch_survives_a_server_restart(run: Run, server: FakeKfpServer) -> None:
    run("submit")
    server.script = [{"state": "RUNNING"}] * 20 + [{"state": "SUCCEEDED"}]

    def restart() -> None:
        while len(server.script) > 15:
            pass
        server.stop()
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    code, _, _ = run("watch", "run-1")
    thread.join()
    assert code == 0


def test_watch_survives_errors_and_timeouts(run: Run, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run("submit")
    server.script = [{"state": "SUCCEEDED"}]
    server.errors = [500, 503, 429]
    assert run("watch", "run-1")[0] == 0
    monkeypatch.setattr(client_module, "TIMEOUT", (1.0, 0.2))
    server.delay = 0.5
    threading.Timer(1.0, lambda: setattr(server, "delay", 0.0)).start()
    assert run("watch", "run-1")[0] == 0


@pytest.mark.parametrize("command", ["submit", "watch", "stop", "collect"])
def test_unavailable_server_is_a_fault(
    run: Run, server: FakeKfpServer, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RETRY_TIMEOUT", 0.2)
    server.stop()
    code, out, err = run(command, *(["run-1"] if command != "submit" else []))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"pipeline: {server.host}: cannot connect to Kubeflow Pipelines (")


def test_unknown_run_id_is_reported(run: Run) -> None:
    for command in ("watch", "stop", "collect"):
        code, out, err = run(command, "run-9")
        assert (code, out) == (2, "")
        assert "run run-9 not found (404 Run run-9 not found)" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["submit", "watch", "stop", "collect"])
def test_login_page_is_reported(run: Run, server: FakeKfpServer, command: str) -> None:
    server.page = "<html>log in</html>"
    code, out, err = run(command, *(["run-1"] if command != "submit" else []))
    assert (code, out) == (2, "")
    assert err.startswith("pipeline: cluster.kfp_host: the response is not one of Kubeflow Pipelines (a login page?)")
    assert len(err.splitlines()) == 1


def test_run_of_another_pipeline_is_not_collected(run: Run, server: FakeKfpServer) -> None:
    server.add_run("theirs", "SUCCEEDED")
    code, out, err = run("collect", "run-1")
    assert (code, out) == (2, "")
    assert err == "pipeline: run run-1 is not a run of this pipeline; pass an id that `submit` printed\n"


def caching(body: Mapping[str, Any]) -> dict[str, bool]:
    """Return stage -> whether Kubeflow may take its result from the cache, of a run that was submitted."""
    tasks = body["pipeline_spec"]["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks.items()}


def test_deleted_artifacts_are_not_taken_from_the_cache(
    run: Run, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the first run of an experiment, some of whose stages an earlier run has computed."""
    run("submit")
    server.runs["run-1"].state = "SUCCEEDED"
    assert run("submit")[1] == "run-1\n"
    monkeypatch.setattr(submit_module.s3, "read_manifest", lambda uri: None if "/train/" in uri else {"key": uri})
    assert run("submit")[1] == "run-2\n"
    names = ("fetch", "augment", "train", "evaluate", "report")
    everything = dict.fromkeys(names, True)
    assert [caching(body) for body in server.bodies] == [everything, everything | {"train": False}]
    server.runs["run-2"].state = "FAILED"
    assert run("submit")[1] == "run-3\n"
    assert caching(server.bodies[-1]) == everything | {"train": False}
    assert run("submit", "--force")[1] == "run-4\n"
    assert caching(server.bodies[-1]) == dict.fromkeys(names, False)


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_nothing_is_cached_if_s3_is_not_readable(
    run: Run, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    def refuse(uri: str) -> None:
        time.sleep(delay)
        raise UserError("no keys here")

    monkeypatch.setattr(submit_module, "S3_TIMEOUT", 0.5)
    monkeypatch.setattr(submit_module.s3, "read_manifest", refuse)
    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    reason = "no response within" if delay else "no keys here"
    assert re.search(rf"s3://bucket/trm is not readable from here \({reason}", err)
    assert not any(caching(server.bodies[0]).values())
    server.runs["run-1"].state = "SUCCEEDED"
    assert run("submit")[1] == "run-1\n"  # whether its artifacts exist is unknown


def test_params_that_kubeflow_cannot_transport_are_rejected(run: Run, server: FakeKfpServer, params_file: Path) -> None:
    text = params_file.read_text()
    numbers = ", ".join(map(str, range(1, 20_000)))
    params_file.write_text(text.replace("pass_at_k: [1, 2]", f"pass_at_k: [{numbers}]"))
    _assert_rejected(
        run, server, "evaluate: has", "bytes as JSON; Kubeflow transports all sections together in at most"
    )


def test_token_from_environment_or_service_account(
    run: Run, server: FakeKfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "Bearer secret-of-mine"
    code, out, err = run("submit")
    assert (code, out) == (2, "")
    assert "no access to the experiments (401 Unauthorized); set $KFP_TOKEN to a valid token" in err
    monkeypatch.setenv("KFP_TOKEN", "secret-of-mine")
    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    assert "secret-of-mine" not in err
    monkeypatch.delenv("KFP_TOKEN")
    (tmp_path / "token").write_text("renewed")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server.token = "Bearer renewed"
    server.script = [{"state": "SUCCEEDED"}]
    assert run("watch", "run-1")[0] == 0


def test_stop(run: Run, server: FakeKfpServer) -> None:
    run("submit")
    code, _, err = run("stop", "run-1")
    assert (code, server.runs["run-1"].state) == (0, "CANCELING")
    assert "stopping run run-1" in err
    server.runs["run-1"].state = "CANCELED"
    requests = len(server.requests)
    assert "has already finished: canceled" in run("stop", "run-1")[2]
    assert server.requests[requests:] == ["GET /apis/v2beta1/runs/run-1"]


def _assert_rejected(run: Run, server: FakeKfpServer, *messages: str) -> None:
    code, out, err = run("submit")
    assert (code, out, server.requests) == (2, "", [])
    assert len(err.splitlines()) == 1
    for message in messages:
        assert message in err


def test_invalid_experiments_are_rejected_without_requests(run: Run, server: FakeKfpServer, params_file: Path) -> None:
    text = params_file.read_text()
    params_file.write_text(text.replace(IMAGE, "trm:latest"))
    _assert_rejected(run, server, "cluster.image must be an image digest", "Got trm:latest")
    params_file.write_text(text.replace(f"  kfp_host: {server.host}/\n", ""))
    _assert_rejected(run, server, "cluster.kfp_host is null")
    params_file.write_text(text + "  resources: {trian: {cpu: '1'}}\n")
    _assert_rejected(run, server, "cluster.resources.trian is not a stage; the stages are fetch")
    start, end = text.index("  source:"), text.index("  allow_leakage")
    files = (
        "train: a.csv, test: b.csv, train_sha256: null, test_sha256: null, min_rating: null, subsample: null, seed: 0"
    )
    params_file.write_text(f"{text[:start]}  source: {{type: path, {files}}}\n{text[end:]}")
    _assert_rejected(run, server, "data.source: refers to local files")
    files = files.replace("a.csv", "http://x/a.csv").replace("b.csv", "http://x/b.csv")
    params_file.write_text(f"{text[:start]}  source: {{type: url, {files}}}\n{text[end:]}")
    _assert_rejected(run, server, "data.source.train_sha256 is null; runs on a cluster require")
    start = f"init_from: {{model: outputs/model, sha256: {'a' * 64}, reset_puzzle_emb: false}}"
    params_file.write_text(text.replace("init_from: null", start))
    _assert_rejected(run, server, "train.init_from.model must be an s3:// URI on a cluster. Got outputs/model")


def test_description_contains_commit_and_image(run: Run, server: FakeKfpServer) -> None:
    """The collecting workflow checks out this commit."""
    run("submit")
    assert server.bodies[0]["description"].endswith(f"image {IMAGE}")
    (made,) = server.runs.values()
    made.description = f"commit {'a' * 40}-dirty, image {IMAGE}"
    found = client_module.KfpClient(
        load_params(ROOT / "params.yaml").cluster.model_copy(update={"kfp_host": server.host})
    )
    assert (found.get(made.run_id).commit, found.get(made.run_id).image) == (f"{'a' * 40}-dirty", IMAGE)
    made.description = "a custom description"
    assert (found.get(made.run_id).commit, found.get(made.run_id).image) == ("", "")


def test_identity_token_of_a_github_workflow(run: Run, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    audiences: list[str] = []

    def id_token(audience: str) -> str:
        audiences.append(audience)
        return "the-workflows-identity"

    monkeypatch.setattr(client_module, "id_token", id_token)
    server.token = "Bearer the-workflows-identity"
    assert run("submit")[0] == 0
    assert set(audiences) == {"pipelines.kubeflow.org"}


def test_submit_resolves_the_digest_of_a_pushed_image(
    run: Run, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Images:
        @staticmethod
        def get(name: str) -> object:
            known = {"ghcr.io/o/trm": ["other@sha256:0", f"ghcr.io/o/trm@sha256:{'1' * 64}"], "local": []}
            if name.partition(":")[0] not in known:
                raise docker.errors.ImageNotFound("no such image")
            return type("Image", (), {"attrs": {"RepoDigests": known[name.partition(":")[0]]}})

    monkeypatch.setattr(docker, "from_env", lambda: type("Client", (), {"images": Images}))
    assert run("submit", "--image", "ghcr.io/o/trm:latest")[0] == 0
    assert server.bodies[0]["description"].endswith(f"image ghcr.io/o/trm@sha256:{'1' * 64}")
    for name in ("local", "nosuch"):
        code, _, err = run("submit", "--image", name)
        assert (code, err.count("\n")) == (2, 1)
        assert f"make image push IMAGE={name}" in err
