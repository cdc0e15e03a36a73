"""Manifests of back end `trainjob`, and the state of its jobs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.train.backend import SPEC_HASH, JobState
from components.train.backends import fill, job_template
from components.train.train_job import RUNTIME_HASH, TrainJob, runtime
from tests.components.train.fake_trainer import worker_template
from tests.conftest import ROOT
from trm.config.cluster import ClusterParams, GangScheduling, TrainJobParams
from trm.config.pods import Resources
from trm.stages.params import load_params

JOB = TrainJobParams(backend="trainjob", min_workers=3, max_workers=3, max_restarts=5, deadline_seconds=99)
CLUSTER = ClusterParams(
    image="registry/trm@sha256:1", namespace="trm", resources={"train": Resources(gpus=4)}, train_job=JOB
)
KEY = "0123456789ab" + "c" * 52
NAME = "trm-0123456789ab"


def made(cluster: ClusterParams = CLUSTER) -> dict[str, Any]:
    return fill(job_template(cluster), ["train", "--params", "{}"], KEY, "s3://b/root", {"name": "p", "uid": "u"})


def made_runtime(job: TrainJobParams = JOB) -> dict[str, Any]:
    return runtime(CLUSTER.model_copy(update={"train_job": job}), job)


def test_job_has_a_fixed_number_of_workers() -> None:
    job = made()
    assert (job["kind"], job["metadata"]["name"], job["metadata"]["namespace"]) == ("TrainJob", NAME, "trm")
    assert job["spec"]["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "trm"}
    assert job["spec"]["activeDeadlineSeconds"] == 99
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 4)
    assert trainer["command"] == ["python", "-m", "components.train.worker"]
    assert trainer["args"] == ["--nproc-per-node=4", "train", "--params", "{}"]
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "4"}
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_workers_meet_at_the_first_one() -> None:
    """The webhook refuses the variables that the controller sets itself; the fake controller checks it."""
    env = {each["name"]: each.get("value") for each in made()["spec"]["trainer"]["env"]}
    assert {name: value for name, value in env.items() if name.startswith("PET_")} == {
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{NAME}-node-0-0.{NAME}:29500",
        "PET_RDZV_CONF": "join_timeout=99",
        "PET_MAX_RESTARTS": "5",
    }
    assert env["TRM_STATE_DIR"] == "s3://b/root/states"
    worker_template(made(), made_runtime())


def test_job_refers_to_the_runtime_of_its_section() -> None:
    expected = made_runtime()["metadata"]["annotations"][SPEC_HASH]
    assert made()["metadata"]["annotations"][RUNTIME_HASH] == expected
    gang = JOB.model_copy(update={"gang": GangScheduling()})
    other = made(CLUSTER.model_copy(update={"train_job": gang}))
    assert other["metadata"]["annotations"][RUNTIME_HASH] == made_runtime(gang)["metadata"]["annotations"][SPEC_HASH]
    assert other["metadata"]["annotations"][RUNTIME_HASH] != expected


def action(code: int) -> str:
    """Return what the Job controller does with a pod that ends with this code."""
    (node,) = made_runtime()["spec"]["template"]["spec"]["replicatedJobs"]
    for rule in node["template"]["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    return "Count"


@pytest.mark.parametrize(("code", "expected"), [(1, "FailJob"), (2, "FailJob"), (3, "FailJob"), (127, "FailJob")])
def test_exit_codes_of_programs_end_the_job(code: int, expected: str) -> None:
    """A user's mistake, exit code 2, is not repeated."""
    assert action(code) == expected


@pytest.mark.parametrize("code", [129, 130, 134, 137, 139, 143])
def test_killed_workers_are_replaced(code: int) -> None:
    assert action(code) == "Count"


@pytest.mark.parametrize(
    ("gang", "policy", "scheduler", "annotations"),
    [
        (GangScheduling(), {"volcano": {}}, "volcano", None),
        (
            GangScheduling(queue="a"),
            {"volcano": {}},
            "volcano",
            {"scheduling.volcano.sh/queue-name": "a"},
        ),
        (
            GangScheduling(scheduler="coscheduling", timeout_seconds=7),
            {"coscheduling": {"scheduleTimeoutSeconds": 7}},
            "scheduler-plugins-scheduler",
            None,
        ),
        (GangScheduling(scheduler="coscheduling"), {"coscheduling": {}}, "scheduler-plugins-scheduler", None),
    ],
)
def test_gang_scheduling_is_part_of_the_runtime(
    gang: GangScheduling, policy: dict[str, Any], scheduler: str, annotations: dict[str, str] | None
) -> None:
    spec = made_runtime(JOB.model_copy(update={"gang": gang}))["spec"]
    assert spec["podGroupPolicy"] == policy
    (node,) = spec["template"]["spec"]["replicatedJobs"]
    assert node["template"]["spec"]["template"]["spec"]["schedulerName"] == scheduler
    assert spec["template"].get("metadata", {}).get("annotations") == annotations


def condition(kind: str, status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "R", "message": f"is {kind}", "lastTransitionTime": "2026-01-01"}


WAITING = {"name": "node", "ready": 0, "active": 1}
READY = {"name": "node", "ready": 1, "active": 1}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (None, JobState("Queued", "Kubeflow Trainer has not processed the job yet")),
        ({"conditions": [condition("Suspended")]}, JobState("Suspended", "is Suspended")),
        ({"jobsStatus": [WAITING]}, JobState("Created", "its workers are not ready")),
        ({"conditions": [condition("Suspended", "False")], "jobsStatus": [READY]}, JobState("Running", "")),
        ({"jobsStatus": [READY], "trainerStatus": {"progressPercentage": 37}}, JobState("Running", "30 % done")),
        ({"jobsStatus": [READY], "conditions": [condition("Complete")]}, JobState("Succeeded", "is Complete")),
        ({"jobsStatus": [READY], "conditions": [condition("Failed")]}, JobState("Failed", "is Failed")),
    ],
)
def test_state_of_a_job(status: dict[str, Any] | None, state: JobState) -> None:
    job = {**made(), **({"status": status} if status else {})}
    assert TrainJob().state(job) == state
    assert state.finished == (state.name in ("Succeeded", "Failed"))


def test_patches_of_kueue_are_left_alone() -> None:
    """Kueue adds patches in front or behind."""
    job = made(CLUSTER.model_copy(update={"resources": {"train": Resources(node_selector={"a": "b"}, gpus=1)}}))
    job["spec"]["runtimePatches"].insert(0, {"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": {}})
    assert TrainJob().worker(job) == ({"nvidia.com/gpu": "1"}, {"a": "b"})
    assert (TrainJob().min_running(job), TrainJob().max_restarts(job)) == (3, 5)


def test_launcher_handles_the_job_without_the_sdk() -> None:
    """The image has neither the package of the typed models nor Kubeflow's SDK."""
    program = """
import json, sys
sys.modules.update({"kubeflow": None, "kubeflow_trainer_api": None, "kfp": None, "kubernetes": None})
from components.train.backends import backend_of, fill
job = fill(json.loads(sys.argv[1]), ["train"], "a" * 64, "s3://b/root")
backend = backend_of(job)
print(backend.name, backend.state(job).name, backend.worker(job), backend.min_running(job), backend.max_restarts(job))
"""
    template = json.dumps(job_template(CLUSTER))
    command = [sys.executable, "-c", program, template]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "trainjob Queued ({'nvidia.com/gpu': '4'}, {}) 3 5\n"


@pytest.mark.parametrize("backend", ["trainjob", "pytorchjob"])
def test_command_prints_the_runtime(tmp_path: Path, backend: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text() + f"  train_job: {{backend: {backend}, max_workers: 1}}\n")
    command = [sys.executable, "-m", "pipeline", "train-job", "--runtime", "--params", str(file)]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if backend == "trainjob":
        cluster = load_params(file).cluster
        assert cluster.train_job is not None
        assert YAML(typ="safe", pure=True).load(ran.stdout) == runtime(cluster, cluster.train_job)
    else:
        assert (ran.returncode, ran.stdout) == (2, "")
        remedy = "only back end trainjob has a TrainingRuntime; set cluster.train_job.backend to trainjob"
        assert ran.stderr == f"pipeline: {remedy}\n"
