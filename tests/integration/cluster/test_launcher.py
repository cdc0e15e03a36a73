"""Launcher of stage `train` with a real API server and a fake training operator that runs pods on this machine."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from components.train.backend import SPEC_HASH
from components.train.train_job import runtime
from tests.apiserver import ApiServer
from tests.components.train.fake_cluster import GPU, GPUS, FakeCluster, wait_for
from tests.components.train.fake_trainer import install_runtime, remove_runtime
from tests.components.train.launcher_fixtures import PUBLISH, Launcher, Stage, one_backend, replacement_command
from tests.conftest import ROOT
from tests.preload import python
from tests.seaweed import objects
from tests.status_server import StatusServer, status_server
from trm.config.cluster import ClusterParams
from trm.config.pods import Resources
from trm.storage import s3

__all__ = ["status_server"]
pytestmark = pytest.mark.slow


def test_two_workers_train_and_the_output_is_registered(stage: Stage, operator: FakeCluster) -> None:
    launcher = stage.start()
    assert launcher.end() == 0, launcher.err + launcher.out
    manifest = s3.read_manifest(stage.uri)
    assert manifest is not None
    assert manifest["facts"]["processes"] == 2
    artifact = json.loads(stage.output.read_text())["artifacts"]["model"]["artifacts"][0]
    assert artifact["metadata"]["uri"] == stage.uri
    assert artifact["metadata"]["key"] == stage.keys["train"]
    assert f"published {stage.uri}" in launcher.out  # printed by rank 0
    assert sorted(operator.created) == [0, 1]
    (job,) = operator.jobs()
    assert job["metadata"]["annotations"][SPEC_HASH]
    again = stage.start()
    assert again.end() == 0
    assert again.err == f"launcher: {stage.uri} exists: nothing to do\n"
    assert len(operator.jobs()) == 1


@one_backend
def test_user_error_of_a_worker_is_one_line(stage: Stage) -> None:
    lost = stage.with_job(max_restarts=0).replace(seed=1)
    lost.keys = {**lost.keys, "augment": "0" * 64}
    launcher = lost.start()
    assert launcher.end() == 2, launcher.err + launcher.out
    assert launcher.err.splitlines()[-1].startswith(f"launcher: {stage.root}/augment/{'0' * 64}: no such artifact")


def test_train_job_command_and_launcher_share_the_job(stage: Stage, operator: FakeCluster) -> None:
    """Both create the same job, and follow a job of the other."""
    operator.command = replacement_command(60, 0.1, PUBLISH)
    cluster = f"cluster: {{artifact_root: {stage.root}, s3_endpoint: {stage.seaweed.endpoint}, s3_region: us-east-1, "
    params = stage.folder / "with-job.yaml"
    params.write_text(
        f"{stage.params_text}{cluster}s3_secret: trm-s3, train_job: {json.dumps(stage.job.model_dump())}}}\n"
    )
    command = [python(), "-m", "pipeline", "train-job", "--params", str(params)]
    environment = {**os.environ, "KUBECONFIG": str(stage.server.kubeconfig())}
    own = Launcher(command, environment, stage.folder)
    stage.started.append(own)
    wait_for(own.lines)
    kubeflows = stage.start()
    assert kubeflows.end() == 0, kubeflows.err
    assert own.end() == 0, own.err
    assert own.out.splitlines()[-1] == f"train: {stage.uri}"
    assert own.lines() == kubeflows.lines() == list(range(60))
    (job,) = operator.jobs()
    printed = subprocess.run([*command, "--dry-run"], check=True, cwd=ROOT, env=environment, capture_output=True)
    assert job["metadata"]["annotations"][SPEC_HASH] in printed.stdout.decode()


@one_backend
def test_train_job_requires_the_dataset_in_s3(stage: Stage, tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text(stage.params_text + f"cluster: {{artifact_root: {stage.root}/nothing, train_job: {{}}}}\n")
    command = [python(), "-m", "pipeline", "train-job", "--params", str(params)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pipeline: {stage.root}/nothing/augment/{stage.keys['augment']}: no dataset in S3")


def test_failed_worker_fails_the_stage(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(150, 0, "sys.exit(3)", worker="worker-1")
    launcher = stage.start()
    assert launcher.end() == 1
    lines = launcher.err.splitlines()
    assert lines[-1].startswith(f"launcher: job {stage.name} failed: ")
    assert "worker 1 failed: exited with 3 (Error)" in lines[-1]
    # The training operator reports the end of a worker by an event.
    event = f"ExitedWithCode: Pod: default.{stage.name}-worker-1 exited with code 3"
    assert any(event in line for line in lines) != operator.backend.keeps_failed_pods
    assert launcher.lines() == list(range(50, 150))
    assert not stage.output.exists()
    assert operator.jobs()  # kept for inspection


@one_backend
def test_job_without_a_model_is_a_failure(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1, 0)
    launcher = stage.start()
    assert launcher.end() == 1
    assert launcher.err.splitlines()[-1].startswith(
        f"launcher: job {stage.name} succeeded, but {stage.uri} has no manifest"
    )
    assert not stage.output.exists()


@pytest.mark.parametrize(("operator", "worker"), [("pytorchjob", 0), ("trainjob", 1)], indirect=["operator"])
def test_evicted_worker_resumes(stage: Stage, operator: FakeCluster, worker: int) -> None:
    """Also worker 0, which hosts the rendezvous and stores the checkpoints: they are restored from S3."""
    longer = stage.replace(seed=2, epochs=8)
    launcher = longer.start()
    states = f"{stage.root}/states/{longer.keys['train']}"
    wait_for(lambda: any(name.endswith("manifest.json") for name in objects(stage.seaweed, states)))
    operator.evict(worker)
    assert launcher.end() == 0, launcher.err + launcher.out
    assert operator.created.count(worker) == 2
    # Exit after SIGTERM, or killed if it takes too long.
    assert re.search(r"exited with (code )?(143|137)", launcher.err)
    # On a busy machine the remaining worker may restart twice.
    resumed = re.findall(r"train: resuming from step (\d+) of (\d+)", launcher.out)
    assert resumed
    assert all(10 <= int(step) < int(total) for step, total in resumed)  # a state is saved every 10 steps
    manifest = s3.read_manifest(longer.uri)
    assert manifest is not None
    assert manifest["facts"]["processes"] == 2


@one_backend
def test_restarted_launcher_follows_its_job(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(100, 0.1, PUBLISH)
    first = stage.start()
    wait_for(lambda: len(first.lines()) > 10)
    first.process.kill()
    first.end()
    second = stage.start()
    assert second.end() == 0, second.err
    assert f"launcher: following job {stage.name}" in second.err
    assert second.lines() == list(range(100))  # a new launcher prints the log from its start
    assert len(operator.created) == 2


def test_job_of_another_spec_is_reported(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    first = stage.start()
    wait_for(operator.jobs)
    other = stage.with_job(shared_memory="2Gi").start()
    assert other.end() == 2
    (line,) = other.err.splitlines()
    assert line.startswith(f"launcher: job {stage.name} in namespace default exists with another spec; wait")
    assert f"kubectl -n default delete {operator.backend.name} {stage.name}" in line
    assert len(operator.jobs()) == 1
    assert first.process.poll() is None
    first.process.terminate()
    first.end()


@one_backend
def test_log_lines_are_printed_once_when_connections_break(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(300, 0.03, PUBLISH)
    operator.kubelet.cut_after = [700, 0, 345, 2000, 1]
    launcher = stage.start()
    assert launcher.end() == 0, launcher.err
    assert operator.kubelet.cut_after == []
    assert launcher.lines() == list(range(300))


@one_backend
def test_launcher_survives_an_unavailable_api_server(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(100, 0.1, PUBLISH)
    launcher = stage.start()
    wait_for(lambda: len(launcher.lines()) > 10)
    stage.server.stop_api()
    time.sleep(2)
    stage.server.start_api()
    assert launcher.end() == 0, launcher.err
    assert "is not available; retrying for up to 30 s" in launcher.err
    assert launcher.lines() == list(range(100))


def test_pending_worker_is_awaited_and_reported(stage: Stage, operator: FakeCluster) -> None:
    operator.capacity, operator.command = 1, replacement_command(1, 0, PUBLISH, worker="worker-1")
    launcher = stage.start()
    wait_for(lambda: operator.shortage in launcher.err)
    time.sleep(5)
    assert launcher.process.poll() is None
    assert launcher.err.count(f"worker 1: pending: {operator.shortage}") == 1  # printed once per change
    operator.capacity = 2
    assert launcher.end() == 0, launcher.err


def test_sigterm_deletes_the_job(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.start()
    wait_for(launcher.lines)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end() == 143
    assert operator.jobs() == []
    assert operator.job_pods() == []
    assert all(running.process.poll() is not None for running in operator.pods.values())
    assert launcher.err.splitlines()[-2:] == [f"launcher: deleting job {stage.name}", "launcher: stopped by signal 15"]


@one_backend
def test_keep_on_stop(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.with_job(keep_on_stop=True).start()
    wait_for(launcher.lines)
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.end() == 130
    assert len(operator.jobs()) == 1
    assert f"launcher: job {stage.name} continues (keep_on_stop)" in launcher.err


@one_backend
def test_deleted_job_is_a_fault(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.start()
    wait_for(launcher.lines)
    operator.delete_job(stage.name)
    assert launcher.end() == 1
    assert launcher.err.splitlines()[-1].startswith(f"launcher: job {stage.name} was deleted by another client")


def test_failed_job_is_reported_to_its_launcher_and_retried_by_the_next(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1, 0, "sys.exit(3)")
    stage.more = {"POD_NAME": "launcher", "POD_UID": "11111111-2222-3333-4444-555555555555"}
    assert stage.start().end() == 1
    (job,) = operator.jobs()
    assert job["metadata"]["ownerReferences"][0]["uid"] == stage.more["POD_UID"]
    assert stage.start().end() == 1  # restarted after the job has failed
    assert operator.jobs()[0]["metadata"]["uid"] == job["metadata"]["uid"]
    operator.command = replacement_command(1, 0, PUBLISH)
    stage.more["POD_UID"] = "99999999-2222-3333-4444-555555555555"
    later = stage.start()
    assert later.end() == 0, later.err
    assert operator.jobs()[0]["metadata"]["uid"] != job["metadata"]["uid"]


def test_repeated_oom_kills_fail_the_stage(stage: Stage, operator: FakeCluster) -> None:
    """The controllers replace a worker that ran out of memory."""
    operator.command = replacement_command(1, 0, "import os; os.kill(os.getpid(), 9)", worker="worker-1")
    launcher = stage.start()
    assert launcher.end() == 2
    assert re.match(
        r"launcher: workers were killed \d+ times within an hour \(exit code 137", launcher.err.splitlines()[-1]
    )
    assert operator.jobs() == []


@one_backend
def test_too_many_gpus_per_worker_are_rejected(stage: Stage, operator: FakeCluster) -> None:
    launcher = stage.replace(resources=Resources(gpus=GPUS + 1)).start()
    assert launcher.end() == 2
    assert launcher.err == (
        f"launcher: a worker requests {GPUS + 1} {GPU}, but the largest node has {GPUS}; lower "
        "cluster.resources.train.gpus or extended_resources, or select other nodes with node_selector\n"
    )
    assert operator.jobs() == []


@one_backend
def test_missing_node_type_is_awaited(stage: Stage, operator: FakeCluster) -> None:
    """An autoscaler may add such a node: the job is created and waits."""
    kind = Resources(gpus=GPUS + 1, node_selector={"type": "large"})
    launcher = stage.replace(resources=kind).start()
    wait_for(operator.jobs)
    assert launcher.process.poll() is None


def test_launcher_without_permissions(stage: Stage, operator: FakeCluster) -> None:
    launcher = stage.start(user="unprivileged")
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    plural, group = operator.backend.resource.plural, operator.backend.resource.group
    assert line.startswith(f"launcher: {plural}.{group}")
    assert f'cannot get resource "{plural}" in API group "{group}" in the namespace "default"; grant' in line


def test_required_permissions_of_the_launcher(stage: Stage, operator: FakeCluster) -> None:
    resource = operator.backend.resource
    rights = {(resource.group, resource.plural): ["get", "create", "delete"], ("", "pods"): ["list"]}
    rights |= {("trainer.kubeflow.org", "trainingruntimes"): ["get"]} if resource.kind == "TrainJob" else {}
    rights |= {("", "pods/log"): ["get"], ("", "events"): ["list"]}
    rules = [{"apiGroups": [group], "resources": [kind], "verbs": verbs} for (group, kind), verbs in rights.items()]
    roles = "apis/rbac.authorization.k8s.io/v1/namespaces/default"
    name = {"metadata": {"name": f"launcher-{operator.backend.name}"}}
    to = {"subjects": [{"kind": "User", "name": "launcher"}], "roleRef": {"kind": "Role", **name["metadata"]}}
    assert stage.server.post(f"{roles}/roles", {**name, "rules": rules}).status_code == 201
    assert stage.server.post(f"{roles}/rolebindings", {**name, **to}).status_code == 201
    operator.command = replacement_command(1, 0, "sys.exit(3)")
    failed = stage.start(user="launcher")
    assert failed.end() == 1
    assert failed.lines() == [0, 0]  # followed, and printed again as the end of the log
    operator.command = replacement_command(1000, 0.1)
    stopped = stage.start(user="launcher")  # deletes the failed job
    wait_for(stopped.lines)
    stopped.process.terminate()
    assert stopped.end() == 143
    assert operator.jobs() == []


def test_missing_controller_is_reported(stage: Stage, operator: FakeCluster, bare_apiserver: ApiServer) -> None:
    launcher = stage.replace(server=bare_apiserver).start()
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    resource = operator.backend.resource
    kind = f"{resource.kind} ({resource.group}/{resource.version})"
    assert f"{kind} is not installed; install {resource.controller}, or set cluster.train_job to null" in line


@one_backend
def test_missing_kubeconfig_is_reported(stage: Stage, tmp_path: Path) -> None:
    launcher = stage.replace(more={"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}).start()
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    assert line.startswith("launcher: no Kubernetes cluster: ")
    assert line.endswith("set $KUBECONFIG to a kubeconfig file")


def test_suspended_job_is_awaited(stage: Stage, operator: FakeCluster) -> None:
    """Kueue suspends a job until its queue has room."""
    operator.suspended, operator.command = True, replacement_command(1, 0, PUBLISH)
    launcher = stage.start()
    wait_for(lambda: f"launcher: {stage.name}: suspended: " in launcher.err)
    time.sleep(5)  # two queries
    assert launcher.process.poll() is None
    assert operator.job_pods() == []
    operator.suspended = False
    assert launcher.end() == 0, launcher.err


def test_deadline_fails_the_stage(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.with_job(deadline_seconds=5).start()
    assert launcher.end() == 1
    assert re.search(r"launcher: job trm-\w+ failed: .*(specified deadline|Deadline)", launcher.err.splitlines()[-1])
    assert not stage.output.exists()


@pytest.mark.parametrize("operator", ["trainjob"], indirect=True)
def test_progress_fits_the_status_of_the_job(stage: Stage, operator: FakeCluster, status_server: StatusServer) -> None:
    """The first of two processes reports what the server of Kubeflow Trainer copies to the job."""
    operator.variables = status_server.variables()
    launcher = stage.start()
    assert launcher.end() == 0, launcher.err
    reports = [report["progressPercentage"] for report in status_server.reports]
    assert (reports, status_server.refused) == (sorted(reports), 0)
    last = status_server.reports[-1]
    assert last["progressPercentage"] == 100
    status = {"status": {"trainerStatus": last}}
    operator.custom.patch_namespaced_custom_object_status(*operator.jobs_path, stage.name, status)
    (job,) = operator.jobs()
    assert job["status"]["trainerStatus"] == last  # the server of the cluster drops unknown fields


@pytest.mark.parametrize("operator", ["trainjob"], indirect=True)
@pytest.mark.parametrize("problem", ["does not exist", "was made for another section cluster"])
def test_training_runtime_is_checked(stage: Stage, operator: FakeCluster, problem: str) -> None:
    remove_runtime(operator, "trm")
    if problem != "does not exist":
        other = ClusterParams(train_job=stage.job, resources={"train": Resources(priority_class="high")})
        install_runtime(operator, runtime(other, stage.job))
    launcher = stage.start()
    assert launcher.end() == 2
    assert launcher.err == (
        f"launcher: TrainingRuntime trm in namespace default {problem}; run "
        "`python -m pipeline train-job --runtime | kubectl -n default apply -f -`\n"
    )
    assert operator.jobs() == []
