"""The InferenceService of k8s/serving: rendering, pod security, and agreement with `trm serve`."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.k8s.pod_security import violations
from tests.k8s.rendering import FOLDER, kubectl, objects
from tests.serving.conftest import serving
from trm.cli.main import app
from trm.serving.champion import is_champion
from trm.serving.service import ServerLimits


@pytest.fixture(scope="module")
def predictor() -> dict[str, Any]:
    ran = kubectl("kustomize", FOLDER / "serving")
    assert (ran.returncode, ran.stderr) == (0, "")
    return objects(ran.stdout)[("InferenceService", "trm")]["spec"]["predictor"]


def test_pod_is_restricted(predictor: dict[str, Any]) -> None:
    assert violations({"metadata": {"labels": predictor["labels"]}, "spec": predictor}) == []
    assert predictor["automountServiceAccountToken"] is False
    (container,) = predictor["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]  # the image's only writable folder


def test_command_is_one_of_trm(predictor: dict[str, Any]) -> None:
    (container,) = predictor["containers"]
    assert container["command"] == ["trm", "serve"]
    model, *options = container["args"]
    name, _, location = model.partition("=")
    assert name == "trm"
    assert is_champion(location)
    serve = typer.main.get_command(app).commands["serve"]  # pyright: ignore[reportAttributeAccessIssue]
    known = {option for each in serve.params for option in (*each.opts, *each.secondary_opts)}
    assert {option.partition("=")[0] for option in options} <= known
    (port,) = (re.fullmatch(r"--port=(\d+)", option) for option in options if option.startswith("--port"))
    assert port is not None
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} == {container["ports"][0]["containerPort"]} == {int(port[1])}
    with serving(ServerLimits()) as client:
        assert [client.get(probe["path"]).status_code for probe in probes] == [200] * 3


def test_policy_selects_the_pod(predictor: dict[str, Any]) -> None:
    found = objects(kubectl("kustomize", FOLDER / "serving").stdout)
    policy = found[("NetworkPolicy", "trm-server")]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= predictor["labels"].items()
    assert policy["ingress"][0]["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert ("ServiceAccount", predictor["serviceAccountName"]) in found


def test_files_pass_yamllint() -> None:
    import subprocess
    import sys

    program = Path(sys.executable).with_name("yamllint")
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 120}, braces: disable}}"
    ran = subprocess.run([program, "-s", "-d", rules, FOLDER / "serving"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
