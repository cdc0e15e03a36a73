"""The manifest of a PyTorchJob, and the settings that no job could run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.train import launcher
from components.train.pytorch_job import HASH, fill, job_name, spec_hash, template
from pipeline.kfp.train_job import manifest, refuse_impossible_jobs
from tests.conftest import ROOT
from trm.cluster import ClusterParams, JobParams, Resources, Toleration
from trm.config import Params, load_params
from trm.errors import UserError
from trm.stages import content_keys

KEY = "0123456789ab" + "c" * 52
WORKER = Resources(cpu="8", memory="32Gi", gpus=4, node_selector={"pool": "gpu"}, tolerations=(Toleration(key="gpu"),))
CLUSTER = ClusterParams(
    image="registry/trm@sha256:1",
    service_account="trainer",
    s3_endpoint="http://s3.trm:8333",
    s3_region="eu-1",
    s3_secret="trm-s3",
    image_pull_secret="pull",
    stages={"train": WORKER},
    job=JobParams(
        min_workers=2, max_workers=3, max_restarts=5, shared_memory="2Gi", ttl_seconds=9, deadline_seconds=99
    ),
)


def made(cluster: ClusterParams = CLUSTER, **owner: str) -> dict[str, Any]:
    return fill(template(cluster), ["train", "--params", "{}"], KEY, "s3://b/root", owner or None)


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]


def experiment(train: dict[str, Any] | None = None, gpus: int = 0, **job: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    cluster = ClusterParams(job=JobParams(**job), stages={"train": Resources(gpus=gpus)})
    trains = params.train.model_copy(update=train or {})
    return params.model_copy(update={"cluster": cluster, "train": trains})


def test_workers_alone_and_elastic() -> None:
    spec = made()["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]  # a master brings an init container that is refused
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


def test_the_container_runs_the_command_with_a_process_for_each_gpu() -> None:
    (container,) = pod(made())["containers"]
    assert container["name"] == "pytorch"
    assert container["command"] == ["python", "-m", "components.train.worker"]
    assert container["args"] == ["--nproc-per-node=4", "train", "--params", "{}"]
    asked = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"requests": asked, "limits": asked}


def test_secrets_are_named_and_nothing_else_of_them() -> None:
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


def test_the_pods_keep_to_restricted_pod_security() -> None:
    """The rules of Kubernetes' Pod Security Standards, profile `restricted`, as far as they concern such a pod."""
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


def test_the_pods_go_where_the_cluster_section_says() -> None:
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
    claimed = pod(made(CLUSTER.model_copy(update={"cache_claim": "caches"})))["volumes"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "caches"}} in claimed


def test_the_name_the_hash_and_the_owner() -> None:
    job = made(name="launcher", uid="1-2-3")
    assert job["metadata"]["name"] == job_name(KEY) == "trm-0123456789ab"
    assert job["metadata"]["annotations"][HASH] == spec_hash(job["spec"])
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "1-2-3"}
    ]
    assert "ownerReferences" not in made()["metadata"]
    kept = CLUSTER.model_copy(update={"job": JobParams(keep=True)})
    assert "ownerReferences" not in made(kept, name="launcher", uid="1-2-3")["metadata"]
    assert made()["metadata"]["annotations"] == job["metadata"]["annotations"]  # whoever launches it
    other = made(CLUSTER.model_copy(update={"image": "registry/trm@sha256:2"}))
    assert other["metadata"]["name"] == job["metadata"]["name"]
    assert other["metadata"]["annotations"][HASH] != job["metadata"]["annotations"][HASH]


def test_kubeflow_makes_doubles_of_numbers_and_the_launcher_whole_numbers_again() -> None:
    travelled = json.loads(json.dumps(template(CLUSTER)), parse_int=float)
    filled = fill(travelled, ["train"], KEY, "s3://b/root")
    assert json.dumps(filled) == json.dumps(fill(template(CLUSTER), ["train"], KEY, "s3://b/root"))


def test_no_job_no_template() -> None:
    assert template(ClusterParams()) == {}


def test_the_dry_run_prints_the_job_of_the_params_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text() + "  job: {min_workers: 4, max_workers: 4}\n")
    command = [sys.executable, "-m", "pipeline", "job", "--dry-run", "--params", str(file)]
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
        (experiment({"global_batch_size": 32}, max_workers=3), r"train\.global_batch_size .* Got 32 for 3 x 1"),
        (experiment({"global_batch_size": 32}, gpus=3), r"train\.global_batch_size .* Got 32 for 1 x 3"),
        (
            experiment(gpus=2, processes_per_worker=4),
            r"cluster\.job\.processes_per_worker must be at most cluster\.stages\.train\.gpus = 2\. Got 4",
        ),
    ],
    ids=["workers", "gpus", "more processes than gpus"],
)
def test_what_could_not_run_is_refused(params: Params, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        refuse_impossible_jobs(params)
    with pytest.raises(UserError, match=problem):
        manifest(params)


def test_what_can_run_is_not_refused() -> None:
    refuse_impossible_jobs(experiment({"global_batch_size": 32}, gpus=4, max_workers=2))
    refuse_impossible_jobs(experiment({"global_batch_size": 32}, min_workers=4, max_workers=4))


def test_a_job_must_be_asked_for() -> None:
    with pytest.raises(UserError, match=r"cluster\.job is null; write `job: \{\}` under cluster"):
        manifest(load_params(ROOT / "params.yaml"))


def test_more_workers_at_least_than_at_most(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text() + "  job: {min_workers: 4}\n")
    with pytest.raises(UserError, match=r"cluster\.job: min_workers must be at most max_workers\. Got 4 and 2"):
        load_params(file)


def test_without_a_job_the_container_trains_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def run() -> None:
        seen.append(sys.argv[1:])
        sys.exit(0)

    monkeypatch.setattr(launcher.run, "main", run)
    monkeypatch.setattr(sys, "argv", ["launcher", "{{$}}", "pointer", "{}", "train", "--params", "{}"])
    with pytest.raises(SystemExit):
        launcher.main()
    assert seen == [["{{$}}", "pointer", "train", "--params", "{}"]]


def test_a_container_without_a_job_needs_no_kubernetes() -> None:
    program = "import sys; sys.modules.update(kfp=None, torch=None, kubernetes=None); "
    program += "from components.train.launcher import main; main()"
    words = [
        json.dumps({"inputs": {}, "outputs": {}}),
        "pointer",
        "{}",
        "train",
        "--params",
        "no.yaml",
        "--model",
        "s3://a/b",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("trm: no.yaml: no such file")


def test_the_image_needs_no_sdk_to_launch() -> None:
    program = (
        "import sys; sys.modules.update({'kubeflow': None, 'kubeflow.training': None, 'kfp': None, 'torch': None}); "
    )
    program += "import components.train.launcher, components.train.kubernetes_client, components.train.job_status"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)
