"""submit, watch and stop against a server that speaks Kubeflow's run API."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

import pipeline.kfp.client as kubeflow_module
import pipeline.kfp.submit as submit_module
import pipeline.kfp.watch as watch_module
from pipeline.__main__ import main
from pipeline.kfp.definition import arguments
from tests.conftest import ROOT
from tests.pipeline.kfp.fake_server import KfpServer, kfp_server
from trm.config import load_params
from trm.stages import content_keys

IMAGE = f"registry.example/trm@sha256:{'0' * 64}"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setattr(kubeflow_module, "PATIENCE", 5.0)
    monkeypatch.setattr(watch_module, "POLL", 0.01)
    for name in (kubeflow_module.TOKEN, "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with kfp_server() as server:
        yield server


@pytest.fixture
def params_file(server: KfpServer, tmp_path: Path) -> Path:
    """The experiment of the repository, on this server, without S3."""
    from trm.recipes import without_surroundings

    text, _ = without_surroundings((ROOT / "params.yaml").read_text())
    file = tmp_path / "params.yaml"
    file.write_text(f"{text}\ncluster:\n  host: {server.host}/\n  image: {IMAGE}\n  root: s3://bucket/trm\n")
    return file


@pytest.fixture
def run(params_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`python -m pipeline ...` in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments, "--params", str(params_file)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_submit_starts_one_run_of_an_experiment(run: Run, server: KfpServer, params_file: Path) -> None:
    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    assert f"{server.host}/#/runs/details/run-1" in err
    params = load_params(params_file)
    (body,) = server.bodies
    wanted = arguments(params, content_keys(params), "s3://bucket/trm")
    assert body["runtime_config"] == {"parameters": wanted, "pipeline_root": "s3://bucket/trm"}
    assert body["experiment_id"] == "e-1"
    assert body["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "trm"
    executors = body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}

    code, out, err = run("submit")
    assert (code, out) == (0, "run-1\n")
    assert "is there already (pending" in err
    assert run("submit", "--again")[1] == "run-2\n"
    assert run("submit")[1] == "run-2\n"  # the newest
    assert len(server.bodies) == 2


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "CANCELING"])
def test_a_run_that_failed_is_submitted_again(run: Run, server: KfpServer, state: str) -> None:
    run("submit")
    server.runs["run-1"].state = state
    assert run("submit")[1] == "run-2\n"


def test_other_params_are_another_run(run: Run, server: KfpServer, params_file: Path) -> None:
    run("submit")
    params_file.write_text(params_file.read_text().replace("votes: 4", "votes: 3"))
    assert run("submit")[1] == "run-2\n"
    params_file.write_text(params_file.read_text().replace("s3://bucket/trm", "s3://bucket/elsewhere"))
    assert run("submit")[1] == "run-3\n"


def test_a_lost_answer_does_not_make_two_runs(run: Run, server: KfpServer) -> None:
    server.lost_answers = 1
    code, out, err = run("submit")
    assert (code, out, len(server.runs)) == (0, "run-1\n", 1)
    assert "does not answer; asking again" in err
    server.lost_answers = 1
    assert run("submit", "--again")[1] == "run-2\n"
    assert len(server.runs) == 2


def test_the_run_goes_on_in_watch_until_it_succeeds(run: Run, server: KfpServer) -> None:
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


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_watch_fails_unless_the_run_succeeded(run: Run, server: KfpServer, state: str) -> None:
    run("submit")
    server.script = [
        {"state": "RUNNING", "tasks": {"train": "RUNNING"}},
        {"state": state, "tasks": {"train": "FAILED"}, "problem": "the loss is nan\nat step 7"},
    ]
    code, _, err = run("watch", "run-1")
    assert code == 1
    assert err.splitlines()[-1] == f"pipeline: run run-1 {state.lower()}: stage train: the loss is nan at step 7"


def test_watch_outlives_a_server_that_is_restarted(run: Run, server: KfpServer) -> None:
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


def test_watch_outlives_errors_and_slow_answers(run: Run, server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    run("submit")
    server.script = [{"state": "SUCCEEDED"}]
    server.errors = [500, 503, 429]
    assert run("watch", "run-1")[0] == 0
    monkeypatch.setattr(kubeflow_module, "TIMEOUT", (1.0, 0.2))
    server.delay = 0.5
    threading.Timer(1.0, lambda: setattr(server, "delay", 0.0)).start()
    assert run("watch", "run-1")[0] == 0


@pytest.mark.parametrize("command", ["submit", "watch", "stop", "collect"])
def test_a_server_that_stays_away_is_a_fault(
    run: Run, server: KfpServer, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeflow_module, "PATIENCE", 0.2)
    server.stop()
    code, out, err = run(command, *(["run-1"] if command != "submit" else []))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"pipeline: {server.host}: Kubeflow cannot be reached (")


def test_a_run_that_is_not_there(run: Run) -> None:
    for command in ("watch", "stop", "collect"):
        code, out, err = run(command, "run-9")
        assert (code, out) == (2, "")
        assert "has no run run-9 (404 Run run-9 not found)" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["submit", "watch", "stop", "collect"])
def test_a_log_in_page_is_no_answer(run: Run, server: KfpServer, command: str) -> None:
    server.page = "<html>log in</html>"
    code, out, err = run(command, *(["run-1"] if command != "submit" else []))
    assert (code, out) == (2, "")
    assert err.startswith("pipeline: cluster.host answers, but not as Kubeflow Pipelines does (a log-in page?)")
    assert len(err.splitlines()) == 1


def test_a_run_of_another_pipeline_is_not_collected(run: Run, server: KfpServer) -> None:
    server.add_run("theirs", "SUCCEEDED")
    code, out, err = run("collect", "run-1")
    assert (code, out) == (2, "")
    assert err == "pipeline: run run-1 is no run of this pipeline; give an id that `submit` printed\n"


def test_a_run_whose_results_are_gone_is_done_again_without_kubeflows_cache(
    run: Run, server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("submit")
    server.runs["run-1"].state = "SUCCEEDED"
    monkeypatch.setattr(submit_module.s3, "read_manifest", lambda uri: {"key": uri})
    assert run("submit")[1] == "run-1\n"
    monkeypatch.setattr(submit_module.s3, "read_manifest", lambda uri: None if "/train/" in uri else {"key": uri})
    assert run("submit")[1] == "run-2\n"
    caching = [
        {
            name: task["cachingOptions"]
            for name, task in body["pipeline_spec"]["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"][
                "tasks"
            ].items()
        }
        for body in server.bodies
    ]
    names = ("fetch", "augment", "train", "evaluate", "report")
    assert caching == [dict.fromkeys(names, options) for options in ({"enableCache": True}, {})]


def test_a_token_from_the_environment_or_a_service_account(
    run: Run, server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "Bearer secret-of-mine"
    code, out, err = run("submit")
    assert (code, out) == (2, "")
    assert "refuses the experiments (401 Unauthorized); set $KFP_TOKEN to a valid token" in err
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


def test_stop(run: Run, server: KfpServer) -> None:
    run("submit")
    code, _, err = run("stop", "run-1")
    assert (code, server.runs["run-1"].state) == (0, "CANCELING")
    assert "is being stopped" in err
    server.runs["run-1"].state = "CANCELED"
    asked = len(server.requests)
    assert "has ended already: canceled" in run("stop", "run-1")[2]
    assert server.requests[asked:] == ["GET /apis/v2beta1/runs/run-1"]


def _refused(run: Run, server: KfpServer, *said: str) -> None:
    code, out, err = run("submit")
    assert (code, out, server.requests) == (2, "", [])
    assert len(err.splitlines()) == 1
    for words in said:
        assert words in err


def test_what_a_cluster_cannot_run_is_refused_before_it_is_asked(
    run: Run, server: KfpServer, params_file: Path
) -> None:
    text = params_file.read_text()
    params_file.write_text(text.replace(IMAGE, "trm:latest"))
    _refused(run, server, "cluster.image must name an image by its digest", "Got trm:latest")
    params_file.write_text(text.replace(f"  host: {server.host}/\n", ""))
    _refused(run, server, "cluster.host is null")
    params_file.write_text(text + "  stages: {trian: {cpu: '1'}}\n")
    _refused(run, server, "cluster.stages.trian is not a stage; there are fetch")
    start, end = text.index("  source:"), text.index("  allow_equivalent")
    files = (
        "train: a.csv, test: b.csv, train_sha256: null, test_sha256: null, min_rating: null, subsample: null, seed: 0"
    )
    params_file.write_text(f"{text[:start]}  source: {{type: path, {files}}}\n{text[end:]}")
    _refused(run, server, "data.source: names files of this machine")
    files = files.replace("a.csv", "http://x/a.csv").replace("b.csv", "http://x/b.csv")
    params_file.write_text(f"{text[:start]}  source: {{type: url, {files}}}\n{text[end:]}")
    _refused(run, server, "data.source.train_sha256 is null; on a cluster")
    start = f"start: {{model: outputs/model, sha256: {'a' * 64}, reset_puzzle_table: false}}"
    params_file.write_text(text.replace("start: null", start))
    _refused(run, server, "train.start.model must be an s3:// address on a cluster. Got outputs/model")


def test_a_run_says_where_it_came_from(run: Run, server: KfpServer) -> None:
    """By this the workflow that collects knows which commit to check out."""
    run("submit")
    assert server.bodies[0]["description"].endswith(f"image {IMAGE}")
    (made,) = server.runs.values()
    made.description = f"commit {'a' * 40}-dirty, image {IMAGE}"
    found = kubeflow_module.Kubeflow(load_params(ROOT / "params.yaml").cluster.model_copy(update={"host": server.host}))
    assert (found.get(made.run_id).commit, found.get(made.run_id).image) == (f"{'a' * 40}-dirty", IMAGE)
    made.description = "a word of somebody's own"
    assert (found.get(made.run_id).commit, found.get(made.run_id).image) == ("", "")


def test_in_a_workflow_its_own_identity_is_the_token(
    run: Run, server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def id_token(audience: str) -> str:
        asked.append(audience)
        return "the-workflows-identity"

    monkeypatch.setattr(kubeflow_module, "id_token", id_token)
    server.token = "Bearer the-workflows-identity"
    assert run("submit")[0] == 0
    assert set(asked) == {"pipelines.kubeflow.org"}


def test_an_image_that_was_pushed_from_here_goes_by_its_digest(
    run: Run, server: KfpServer, monkeypatch: pytest.MonkeyPatch
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
