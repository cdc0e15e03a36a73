"""`python -m pipeline doctor` with a real API server: each single thing that is wrong in Kubernetes has its line."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.train.train_job import runtime
from pipeline.local.s3_server import SeaweedFS
from tests.apiserver import ApiServer
from tests.components.train.fake_cluster import GPU
from tests.components.train.fake_node import Node
from tests.conftest import ROOT
from tests.findings import Findings, problems, read_findings
from tests.params import TINY, params_text
from tests.preload import python
from trm.config.cluster import ClusterParams

pytestmark = pytest.mark.slow
RUNTIMES = "apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainingruntimes"
IMAGE = f"registry.example/trm@sha256:{'0' * 64}"
KUBERNETES = [
    "Kubernetes",
    "namespace",
    "S3 secret",
    "other secrets",
    "image pull secret",
    "service account",
    "ConfigMap kfp-launcher",
]
KUBERNETES += ["cache volume", "training jobs", "TrainingRuntime", "GPUs", "admission", "permissions", "pod"]
IN_POD = ["versions", "compiler", "outputs", "states", "cache", "temporary files", "device", "S3", "S3 objects"]
IN_POD += ["S3 uploads in parts", "S3 conditional writes", "S3 clock"]
RULES = [
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kfp-launcher"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["doctor-s3"], "verbs": ["get"]},
    {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]},
    {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["create", "delete", "get"]},
    {"apiGroups": [""], "resources": ["pods", "events"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]


class Doctor:
    """Runs the command in a process, with the kubeconfig of a user."""

    def __init__(self, server: ApiServer, seaweed: SeaweedFS, root: str, folder: Path) -> None:
        self.server, self.seaweed, self.folder = server, seaweed, folder
        self.user = "admin"
        self.cluster: dict[str, Any] = {
            "namespace": "default",
            "service_account": "doctor",
            "artifact_root": root,
            "s3_endpoint": seaweed.endpoint,
            "s3_region": "us-east-1",
            "s3_secret": "doctor-s3",
            "image": IMAGE,
            "train_job": {"min_workers": 1, "max_workers": 2},
        }

    def __call__(self, *options: str) -> Findings:
        file = self.folder / "params.yaml"
        file.write_text(params_text({**TINY, "cluster": self.cluster}))
        environment = {**os.environ, **self.seaweed.environment(), "KUBECONFIG": str(self.server.kubeconfig(self.user))}
        command = [python(), "-m", "pipeline", "doctor", "--params", str(file), *options]
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return read_findings((done.returncode, done.stdout, done.stderr))


@pytest.fixture
def objects(apiserver: ApiServer, seaweed: SeaweedFS) -> Iterator[dict[str, Callable[[dict[str, Any] | None], None]]]:
    """Creates what the checks expect; path of an object -> a function that replaces it, or deletes it for None."""
    keys = {name: value for name, value in seaweed.environment().items() if "KEY" in name}
    secret = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    default = {"endpoint": seaweed.endpoint, "region": "us-east-1"}
    default |= {"credentials": {"fromEnv": False, "secretRef": {"secretName": "doctor-s3"}}}
    binding = {
        "subjects": [{"kind": "ServiceAccount", "name": "doctor", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "doctor"},
    }
    roles = "apis/rbac.authorization.k8s.io/v1/namespaces/default"
    bodies: dict[str, dict[str, Any]] = {
        "api/v1/namespaces/default/secrets/doctor-s3": {"data": secret},
        "api/v1/namespaces/default/serviceaccounts/doctor": {},
        "api/v1/namespaces/default/configmaps/kfp-launcher": {
            "data": {"providers": json.dumps({"s3": {"default": default}})}
        },
        f"{roles}/roles/doctor": {"rules": RULES},
        f"{roles}/rolebindings/doctor": binding,
    }

    def put(path: str, body: dict[str, Any] | None) -> None:
        apiserver.http("DELETE", path)
        if body is not None:
            folder, _, name = path.rpartition("/")
            response = apiserver.post(folder, {"metadata": {"name": name}, **body})
            assert response.status_code == 201, response.text

    put(f"{RUNTIMES}/trm", None)  # other modules leave theirs
    for path, body in bodies.items():
        put(path, body)
    yield {
        path.rpartition("/")[2] + f" {path.split('/')[-2]}": lambda body, path=path: put(path, body) for path in bodies
    }
    for path in bodies:
        put(path, None)


@pytest.fixture
def doctor(apiserver: ApiServer, seaweed: SeaweedFS, root: str, tmp_path: Path, objects: object) -> Doctor:
    return Doctor(apiserver, seaweed, root, tmp_path)


@pytest.fixture
def node(apiserver: ApiServer, tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "node").mkdir()
    node = Node(apiserver, tmp_path / "node")
    yield node
    node.close()


Objects = dict[str, Callable[[dict[str, Any] | None], None]]


def test_nothing_is_wrong(doctor: Doctor, node: Node) -> None:
    found = doctor("--pod")
    assert problems(found) == set()
    assert [name for name in found if name in KUBERNETES] == KUBERNETES
    assert [name for name in found if name.startswith("pod ")] == [f"pod {name}" for name in IN_POD]
    assert found["pod"] == ("ok", f"image {IMAGE} was pulled and its program ran")
    assert found["training jobs"][1] == "pytorchjobs.kubeflow.org v1 is served"
    assert found["permissions"][1] == "service account doctor has the 10 permissions that it needs"
    assert node.job_pods() == []  # deleted


@pytest.mark.parametrize(
    ("name", "kind", "body", "finding", "text"),
    [
        ("doctor-s3", "secrets", None, "S3 secret", "secret doctor-s3 does not exist in namespace default; create it"),
        ("doctor-s3", "secrets", {"data": {}}, "S3 secret", "secret doctor-s3 in namespace default has no AWS_ACCESS"),
        ("doctor", "serviceaccounts", None, "service account", "service account doctor does not exist"),
        ("kfp-launcher", "configmaps", None, "ConfigMap kfp-launcher", "does not exist in namespace default; apply an"),
        ("kfp-launcher", "configmaps", {}, "ConfigMap kfp-launcher", "providers.s3.default is missing; correct"),
        (
            "kfp-launcher",
            "configmaps",
            {"data": {"providers": json.dumps({"s3": {"default": {"endpoint": "s3.example:80"}}})}},
            "ConfigMap kfp-launcher",
            r"endpoint of providers.s3.default is s3.example:80, section cluster has 127.0.0.1:\d+; correct",
        ),
        (
            "doctor",
            "roles",
            {"rules": RULES[:-1]},
            "permissions",
            "service account doctor may not get pods/log in namespace default; apply an overlay of k8s/, or grant it",
        ),
    ],
)
def test_wrong_object(
    doctor: Doctor, objects: Objects, name: str, kind: str, body: dict[str, Any] | None, finding: str, text: str
) -> None:
    objects[f"{name} {kind}"](body)
    found = doctor()
    assert problems(found) == {finding}
    assert re.search(text, found[finding][1])


def test_wrong_settings(doctor: Doctor, apiserver: ApiServer) -> None:
    """Several at once: each has its own finding."""
    claims = "api/v1/namespaces/default/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    assert apiserver.post(claims, {"metadata": {"name": "doctor"}, "spec": spec}).status_code == 201
    doctor.cluster |= {"cache_pvc": "doctor", "image_pull_secret": "doctor-s3", "s3_region": None}
    doctor.cluster["pods"] = {"secret_env": {"WANDB_API_KEY": {"secret": "wandb", "key": "api-key"}}}
    doctor.cluster |= {"resources": {"train": {"gpus": 1}}, "train_job": {"backend": "trainjob", "min_workers": 2}}
    found = doctor()
    apiserver.http("DELETE", f"{claims}/doctor")
    texts = {
        "S3 secret": "cluster.s3_region is null, and pods with keys have no other source of it; set it",
        "other secrets": "secret wandb does not exist in namespace default; run `kubectl -n default create",
        "image pull secret": "secret doctor-s3 in namespace default has type Opaque; run `kubectl -n default create",
        "ConfigMap kfp-launcher": "region of providers.s3.default is us-east-1, section cluster has None; correct",
        "cache volume": "PersistentVolumeClaim doctor has access modes ReadWriteOnce, but 2 workers mount it; use a",
        "TrainingRuntime": "TrainingRuntime trm in namespace default does not exist; run `python -m pipeline train-job",
        "GPUs": f"no node has 1 {GPU}; install the device plug-in",
        "permissions": "service account doctor may not create trainjobs in namespace default",
    }
    assert problems(found) == set(texts)
    for name, text in texts.items():
        assert text in found[name][1]


def test_training_runtime(doctor: Doctor, apiserver: ApiServer) -> None:
    doctor.cluster["train_job"] = {"backend": "trainjob", "min_workers": 2}
    cluster = ClusterParams.model_validate(doctor.cluster)
    assert cluster.train_job is not None
    assert apiserver.post(RUNTIMES, runtime(cluster, cluster.train_job)).status_code == 201
    found = doctor()
    apiserver.http("DELETE", f"{RUNTIMES}/trm")
    assert found["TrainingRuntime"] == ("ok", "trm was made for this section cluster")
    assert found["admission"] == ("ok", "the server accepts the TrainJob (dry run)")


def test_controller_is_not_installed(doctor: Doctor, bare_apiserver: ApiServer) -> None:
    doctor.server = bare_apiserver
    state, text = doctor()["training jobs"]
    assert state == "PROBLEM"
    assert text == "PyTorchJob (kubeflow.org/v1) is not installed; install Kubeflow's training operator"


def test_credentials_without_permissions(doctor: Doctor) -> None:
    """Nothing is known, so nothing is wrong."""
    doctor.user = "unprivileged"
    found = doctor("--pod")
    assert problems(found) == set()
    assert found["S3 secret"] == ("skipped", "the credentials of your kubeconfig may not read it (403)")
    assert found["pod"] == ("skipped", "the credentials of your kubeconfig may not create pods (403)")


def test_image_that_cannot_be_pulled(doctor: Doctor, node: Node) -> None:
    node.unpullable = "worker-0"
    found = doctor("--pod", "--timeout", "4")
    assert problems(found) == {"pod"}
    assert re.search(
        r"does not start: (ErrImagePull|ImagePullBackOff): registry.example is busy; correct", found["pod"][1]
    )
    assert node.job_pods() == []


def test_pod_that_is_not_scheduled(doctor: Doctor, node: Node) -> None:
    node.capacity = 0
    found = doctor("--pod", "--timeout", "3")
    assert problems(found) == {"pod"}
    assert "has not finished after 3 s (pending: 0/1 nodes are available" in found["pod"][1]


def test_cache_and_egress_of_the_pod(doctor: Doctor, node: Node) -> None:
    """The folder of the cache is not writable, and no address is reached. The machine's network gives the reason."""
    node.command = lambda words, _: ["env", "no_proxy=*", "TRM_CACHE_DIR=/proc/1/cache", *words, "http://127.0.0.1:9"]
    found = doctor("--pod")
    assert problems(found) == {"pod cache", "pod egress"}
    assert found["pod cache"][1].startswith("/proc/1/cache: ")
    assert re.match(r"127\.0\.0\.1 cannot be reached \(.+\); allow it in", found["pod egress"][1])
