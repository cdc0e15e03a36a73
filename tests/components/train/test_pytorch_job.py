"""Manifest of the PyTorchJob, and validation of its settings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.train import launcher
from components.train.backend import SPEC_HASH, START_TIMEOUT, job_name, spec_hash
from components.train.backends import fill, job_template
from pipeline.kfp.train_job import check_train_job, manifest
from tests.conftest import ROOT
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.params import Params
from trm.config.pods import Resources, Toleration
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.utils.errors import UserError

KEY = "0123456789ab" + "c" * 52
WORKER = Resources(cpu="8", memory="32Gi", gpus=4, node_selector={"pool": "gpu"}, tolerations=(Toleration(key="gpu"),))
CLUSTER = ClusterParams(
    image="registry/trm@sha256:1",
    service_account="trainer",
    s3_endpoint="http://s3.trm:8333",
    s3_region="eu-1",
    s3_secret="trm-s3",
    image_pull_secret="pull",
    resources={"train": WORKER},
    train_job=TrainJobParams(
        min_workers=2, max_workers=3, max_restarts=5, shared_memory="2Gi", ttl_seconds=9, deadline_seconds=99
    ),
)


def made(cluster: ClusterParams = CLUSTER, **owner: str) -> dict[str, Any]:
    return fill(job_template(cluster), ["train", "--params", "{}"], KEY, "s3://b/root", owner or None)


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]


def experiment(train: dict[str, Any] | None = None, gpus: int = 0, **job: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    cluster = ClusterParams(train_job=TrainJobParams(**job), resources={"train": Resources(gpus=gpus)})
    train_params = params.train.model_copy(update=train or {})
    return params.model_copy(update={"cluster": cluster, "train": train_params})


def test_job_is_elastic_with_workers_only() -> None:
    spec = made()["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]  # a master adds an init container that pod security rejects
    assert spec["elasticPolicy"] == {
        "minReplicas": 2,
        "maxReplicas": 3,
        "maxRestarts": 5,
        "rdzvBackend": "c10d",
        "rdzvConf": [{"key": "join_timeout", "value": "99"}],
    }
    assert spec["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": 9,
        "activeDeadlineSeconds": 99,
        "backoffLimit": 6,
    }
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    assert spec["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "ExitCode"
    assert spec["nprocPerNode"] == "4"


def test_container_runs_one_process_per_gpu() -> None:
    (container,) = pod(made())["containers"]
    assert container["name"] == "pytorch"
    assert container["command"] == ["python", "-m", "components.train.worker"]
    assert container["args"] == ["--nproc-per-node=4", "train", "--params", "{}"]
    limits = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"requests": limits, "limits": limits}


def test_manifest_refers_to_secrets_without_values() -> None:
    (container,) = pod(made())["containers"]
    env = {variable["name"]: variable for variable in container["env"]}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert env.pop(name) == {"name": name, "valueFrom": {"secretKeyRef": {"name": "trm-s3", "key": name}}}
    assert {name: variable["value"] for name, variable in env.items()} == {
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
        "NCCL_DEBUG": "WARN",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": "2",
        "AWS_ENDPOINT_URL_S3": "http://s3.trm:8333",
        "AWS_DEFAULT_REGION": "eu-1",
        "TRM_STATE_DIR": "s3://b/root/states",
    }


def test_pods_satisfy_restricted_pod_security() -> None:
    """Rules of the Kubernetes Pod Security Standards, profile `restricted`, that apply to this pod."""
    spec = pod(made())
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"initContainers", "hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", ()))
    assert all(set(volume) <= {"name", "emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])


def test_pod_placement_follows_the_cluster_section() -> None:
    spec = pod(made())
    assert spec["serviceAccountName"] == "trainer"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    volumes = {volume.pop("name"): volume for volume in spec["volumes"]}
    assert volumes == {
        "cache": {"emptyDir": {}},
        "shared-memory": {"emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts == {"cache": "/cache", "shared-memory": "/dev/shm"}
    volumes = pod(made(CLUSTER.model_copy(update={"cache_pvc": "caches"})))["volumes"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "caches"}} in volumes


def test_name_spec_hash_and_owner() -> None:
    job = made(name="launcher", uid="1-2-3")
    assert job["metadata"]["name"] == job_name(KEY) == "trm-0123456789ab"
    assert job["metadata"]["annotations"][SPEC_HASH] == spec_hash(job["spec"])
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "1-2-3"}
    ]
    assert job["metadata"]["annotations"][START_TIMEOUT] == "600"
    assert "ownerReferences" not in made()["metadata"]
    kept = CLUSTER.model_copy(update={"train_job": TrainJobParams(keep_on_stop=True)})
    assert "ownerReferences" not in made(kept, name="launcher", uid="1-2-3")["metadata"]
    assert made()["metadata"]["annotations"] == job["metadata"]["annotations"]  # independent of the owner
    other = made(CLUSTER.model_copy(update={"image": "registry/trm@sha256:2"}))
    assert other["metadata"]["name"] == job["metadata"]["name"]
    assert other["metadata"]["annotations"][SPEC_HASH] != job["metadata"]["annotations"][SPEC_HASH]


def test_template_is_empty_without_train_job() -> None:
    assert job_template(ClusterParams()) == {}


def test_dry_run_prints_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text() + "  train_job: {min_workers: 4, max_workers: 4}\n")
    command = [sys.executable, "-m", "pipeline", "train-job", "--dry-run", "--params", str(file)]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    params = load_params(file)
    printed = YAML(typ="safe", pure=True).load(ran.stdout)
    assert printed == manifest(params)
    keys = content_keys(params)
    words = pod(printed)["containers"][0]["args"]
    assert words[-4:] == [
        "--dataset",
        f"s3://trm/artifacts/augment/{keys['augment']}",
        "--model",
        f"s3://trm/artifacts/train/{keys['train']}",
    ]


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            experiment({"global_batch_size": 32}, max_workers=4),
            r"train\.global_batch_size .* Got 32 for 3 x 1; set min_workers = max_workers = 4, or "
            r"train\.global_batch_size to a multiple of 12",
        ),
        (
            experiment({"global_batch_size": 32}, gpus=3),
            r"train\.global_batch_size .* Got 32 for 1 x 3; set train\.global_batch_size to a multiple of 6",
        ),
        (
            experiment(gpus=2, processes_per_worker=4),
            r"cluster\.train_job\.processes_per_worker must be at most cluster\.resources\.train\.gpus = 2\. Got 4",
        ),
    ],
    ids=["workers", "gpus", "more processes than gpus"],
)
def test_invalid_worker_counts_are_rejected(params: Params, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        check_train_job(params)
    with pytest.raises(UserError, match=problem):
        manifest(params)


def test_valid_worker_counts_are_accepted() -> None:
    check_train_job(experiment({"global_batch_size": 32}, gpus=4, max_workers=2))
    check_train_job(experiment({"global_batch_size": 32}, min_workers=4, max_workers=4))


def test_documented_cluster_section_fits_the_default_experiment() -> None:
    text = (ROOT / "docs/kubeflow.md").read_text()
    documented = text[text.index("```yaml\ncluster:") :].removeprefix("```yaml\n").partition("```")[0]
    cluster = ClusterParams.model_validate(YAML(typ="safe", pure=True).load(documented)["cluster"])
    assert cluster.train_job is not None
    check_train_job(load_params(ROOT / "params.yaml").model_copy(update={"cluster": cluster}))


def test_manifest_requires_train_job() -> None:
    with pytest.raises(UserError, match=r"cluster\.train_job is null; add `train_job: \{\}` to section cluster"):
        manifest(load_params(ROOT / "params.yaml"))


def test_min_workers_above_max_workers_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text() + "  train_job: {min_workers: 4}\n")
    with pytest.raises(UserError, match=r"cluster\.train_job: min_workers must be at most max_workers\. Got 4 and 2"):
        load_params(file)


def test_without_train_job_the_container_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run() -> None:
        seen.append(sys.argv[1:])
        sys.exit(0)

    monkeypatch.setattr(launcher.run, "main", run)
    monkeypatch.delenv("TRM_STATE_DIR")
    command = ["train", "--params", "{}", "--model", f"s3://b/root/train/{KEY}"]
    monkeypatch.setattr(sys, "argv", ["launcher", "{{$}}", "pointer", "{}", *command])
    with pytest.raises(SystemExit):
        launcher.main()
    assert seen == [["{{$}}", "pointer", *command]]
    assert os.environ["TRM_STATE_DIR"] == "s3://b/root/states"
    monkeypatch.setenv("TRM_STATE_DIR", "/cache/states")  # cluster.state_root: off
    monkeypatch.setattr(sys, "argv", ["launcher", "{{$}}", "pointer", "{}", *command])
    with pytest.raises(SystemExit):
        launcher.main()
    assert os.environ["TRM_STATE_DIR"] == "/cache/states"


@pytest.mark.parametrize(
    ("state_root", "variable"),
    [(None, "s3://b/root/states"), ("s3://c/elsewhere", "s3://c/elsewhere"), ("off", "/cache/states")],
)
def test_state_root(state_root: str | None, variable: str) -> None:
    (container,) = pod(made(CLUSTER.model_copy(update={"state_root": state_root})))["containers"]
    assert [each["value"] for each in container["env"] if each["name"] == "TRM_STATE_DIR"] == [variable]


def test_without_train_job_kubernetes_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "dataset").write_text('{"uri": "s3://a/d"}')
    program = "import sys; sys.modules.update(kfp=None, torch=None, kubernetes=None); "
    program += "from components.train.launcher import main; main()"
    words = [
        json.dumps({"inputs": {}, "outputs": {}}),
        "pointer",
        "{}",
        "train",
        "--params",
        "no.yaml",
        "--dataset",
        str(tmp_path / "dataset"),
        "--model",
        "s3://a/b",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("trm: no.yaml: no such file")


def test_launcher_imports_no_sdk() -> None:
    absent = dict.fromkeys(("kubeflow", "kubeflow.training", "kubeflow_trainer_api", "kfp", "torch"))
    program = f"import sys; sys.modules.update({absent}); "
    program += "import components.train.launcher, components.train.kubernetes_client, components.train.job_status"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)
