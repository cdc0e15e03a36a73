"""`python -m pipeline doctor` without Kubernetes: each single thing that is wrong has its line."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.kfp.client import TOKEN_VARIABLE
from tests.findings import problems, read_findings
from tests.params import TINY, params_text
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from tests.storage import faulty_s3
from tests.storage.faulty_s3 import refused
from trm.storage import server_check

IMAGE = f"registry.example/trm@sha256:{'0' * 64}"
S3 = ["S3", "S3 objects", "S3 uploads in parts", "S3 conditional writes", "S3 clock"]
NAMES = ["params", "image", "Kubeflow Pipelines", "Kubeflow login", *S3, "tracking", "Kubernetes"]
ONE_MINUTE = 60
Doctor = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, no token, and keys that the S3 servers of these tests accept."""
    for name in (TOKEN_VARIABLE, "KF_PIPELINES_SA_TOKEN_PATH", "AWS_PROFILE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(server_check, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr("pipeline.operations.doctor.RETRY_SECONDS", 0.5)


@pytest.fixture
def server() -> Iterator[FakeKfpServer]:
    with kfp_server() as server:
        yield server


@pytest.fixture
def doctor(
    server: FakeKfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    """Runs the command in this process; `changes` are those of the params. Each run has a bucket of its own."""
    number = 0

    def run(changes: Mapping[str, Any] | None = None) -> tuple[int, str, str]:
        nonlocal number
        number += 1
        cluster: dict[str, Any] = {"kfp_host": server.host, "image": IMAGE, "artifact_root": f"s3://bucket{number}/trm"}
        own = {key: value for key, value in (changes or {}).items() if key.startswith("cluster.")}
        cluster |= {key.removeprefix("cluster."): value for key, value in own.items()}
        settings = {
            **TINY,
            "cluster": cluster,
            **{key: value for key, value in (changes or {}).items() if key not in own},
        }
        (tmp_path / "params.yaml").write_text(params_text(settings))
        monkeypatch.setattr(sys, "argv", ["pipeline", "doctor", "--params", str(tmp_path / "params.yaml")])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)


def test_nothing_is_wrong(doctor: Doctor, server: FakeKfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_run("one")
    with faulty_s3.serve() as (address, requests):
        at(monkeypatch, address)
        found = read_findings(doctor())
    assert list(found) == NAMES
    assert {name for name, (state, _) in found.items() if state != "ok"} == {"Kubernetes"}  # no kubeconfig: skipped
    assert found["Kubernetes"][0] == "skipped"
    assert found["Kubeflow Pipelines"][1] == f"version 2.17.0, single-user, API v2beta1 at {server.host}"
    assert found["Kubeflow login"][1] == "1 runs can be listed"
    written = {request.split("?")[0].removeprefix("PUT ") for request in requests if request.startswith("PUT")}
    deleted = {request.removeprefix("DELETE ") for request in requests if request.startswith("DELETE")}
    left = written - {path.partition("?")[0] for path in deleted}
    assert left == {"/bucket1/trm/conditional-write-test"}


@pytest.mark.parametrize(
    ("build", "version"),
    [({"tag_name": "2.5.0"}, "2.5.0"), ({}, "unknown"), ({"tag_name": "\x1b[2J"}, "unknown"), ({"tag_name": 3}, "3")],
    ids=["without the web UI", "none", "control characters", "number"],
)
def test_version_of_kubeflow(doctor: Doctor, server: FakeKfpServer, build: dict[str, Any], version: str) -> None:
    server.build = build
    found = read_findings(doctor({"cluster.artifact_root": "s3://bucket/x"}))
    assert found["Kubeflow Pipelines"][1].startswith(f"version {version}, single-user")


def test_states_in_another_bucket(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_s3.serve() as (address, requests):
        at(monkeypatch, address)
        found = read_findings(doctor({"cluster.state_root": "s3://states/trm"}))
        assert list(found) == [*NAMES[:9], *(name.replace("S3", "S3 states", 1) for name in S3), *NAMES[9:]]
        assert found["S3 states"][1].startswith("s3://states/trm can be listed at")
        assert any(request.startswith("PUT /states/trm/doctor/") for request in requests)
        assert list(read_findings(doctor({"cluster.state_root": "s3://bucket2/states"}))) == NAMES


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({"cluster.image": "trm:latest"}, "image", "cluster.image must be an image digest, as name@sha256:... Got trm"),
        ({"cluster.train_job": {"max_workers": 3}}, "params", "train.global_batch_size must be a multiple of workers"),
        ({"cluster.kfp_host": "http://127.0.0.1:1"}, "Kubeflow Pipelines", "cannot connect to Kubeflow Pipelines"),
        ({"cluster.namespace": "team"}, "Kubeflow Pipelines", "Kubeflow is single-user; set cluster.namespace to null"),
        ({"train.epochs": -1}, "params", "train.epochs"),
    ],
)
def test_wrong_settings(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], name: str, text: str
) -> None:
    with faulty_s3.serve() as (address, _):
        at(monkeypatch, address)
        found = read_findings(doctor(changes))
    assert problems(found) == {name}
    assert text in found[name][1]


@pytest.mark.parametrize(
    ("attribute", "value", "name", "text"),
    [
        ("token", "Bearer t", "Kubeflow login", f"401 Unauthorized); set ${TOKEN_VARIABLE} to a valid token"),
        ("page", "<html>login</html>", "Kubeflow Pipelines", "is not one of Kubeflow Pipelines (a login page?)"),
        ("multi_user", True, "Kubeflow Pipelines", "Kubeflow is multi-user; set cluster.namespace"),
    ],
)
def test_kubeflow_is_wrong(
    doctor: Doctor,
    server: FakeKfpServer,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str,
    value: object,
    name: str,
    text: str,
) -> None:
    setattr(server, attribute, value)
    with faulty_s3.serve() as (address, _):
        at(monkeypatch, address)
        found = read_findings(doctor())
    assert len(problems(found)) == 1
    assert any(text in words for _, words in found.values()), found


@pytest.mark.parametrize(
    ("server_options", "name", "text"),
    [
        ({"ignores": ("If-None-Match",)}, "S3 conditional writes", "ignores the condition If-None-Match of a write"),
        ({"ignores": ("If-Match",)}, "S3 conditional writes", "ignores the condition If-Match of a write"),
        ({"ignores": ("x-amz-checksum-crc32",)}, "S3 uploads in parts", r"does not verify checksums \(CRC32\)"),
        ({"clock": 2 * ONE_MINUTE}, "S3 clock", "the server's clock is 1[12]. s ahead; synchronize the clocks"),
        ({"clock": -2 * ONE_MINUTE}, "S3 clock", "the server's clock is 1[12]. s behind"),
        (
            {"answers": [refused("AuthorizationHeaderMalformed", 400, "the region 'us-east-1' is wrong")]},
            "S3",
            "AuthorizationHeaderMalformed: .*set AWS_REGION to the region of the bucket",
        ),
        (
            {"answers": [refused("NoSuchBucket", 404, "no such bucket")]},
            "S3",
            "NoSuchBucket: the bucket does not exist",
        ),
        ({"answers": [refused("SlowDown", 503, "busy")]}, "S3", "SlowDown, retried for 0 seconds"),
    ],
)
def test_s3_is_wrong(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, server_options: dict[str, Any], name: str, text: str
) -> None:
    with faulty_s3.serve(**server_options) as (address, _):
        at(monkeypatch, address)
        found = read_findings(doctor())
    assert problems(found) == {name}
    assert re.search(text, found[name][1])
    if name == "S3":
        assert {found[other][0] for other in S3[1:]} == {"skipped"}


@pytest.mark.parametrize(("method", "action"), [("PUT", "write object"), ("DELETE", "delete object")])
def test_missing_s3_permission(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, method: str, action: str) -> None:
    with faulty_s3.serve([refused("AccessDenied", 403, "no", method)]) as (address, _):
        at(monkeypatch, address)
        found = read_findings(doctor())
    state, text = found["S3 objects"]
    assert state == "PROBLEM"
    assert f"cannot {action}" in text
    assert "AccessDenied: these credentials lack the permission" in text


@pytest.mark.parametrize(
    ("key", "secret_env", "state", "text"),
    [
        (
            "",
            {},
            "ok",
            "online on this machine; pods log nothing, because cluster.pods.secret_env has no WANDB_API_KEY",
        ),
        ("", {"WANDB_API_KEY": {"secret": "w", "key": "k"}}, "skipped", "online; WANDB_API_KEY is not set here"),
        ("a", {"WANDB_API_KEY": {"secret": "w", "key": "k"}}, "ok", "online on this machine and in pods"),
    ],
)
def test_online_tracking(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, key: str, secret_env: dict[str, Any], state: str, text: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    with faulty_s3.serve() as (address, _):
        at(monkeypatch, address)
        found = read_findings(doctor({"tracking.mode": "online", "cluster.pods": {"secret_env": secret_env}}))
    assert found["tracking"][0] == state
    assert found["tracking"][1].startswith(text)
