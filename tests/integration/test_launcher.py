"""The launcher before a real API server, with a training operator that runs the job's pods on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.train.pytorch_job import HASH, fill, template
from tests.apiserver import ApiServer, apiserver, assets, bare_apiserver
from tests.components.train.fake_training_operator import GPU, GPUS, Operator, wait_for
from tests.components.train.launcher_fixtures import (
    JOB,
    PUBLISH,
    Launcher,
    Stage,
    folders,
    operator,
    params_text,
    stage,
    stand_in,
)
from tests.conftest import ROOT
from tests.seaweed import objects
from trm import s3
from trm.cluster import ClusterParams, JobParams, Resources

__all__ = ["apiserver", "assets", "bare_apiserver", "folders", "operator", "params_text", "stage"]
pytestmark = pytest.mark.slow


def test_two_workers_train_and_kubeflow_is_told(stage: Stage, operator: Operator) -> None:
    launcher = stage.start()
    assert launcher.end() == 0, launcher.err + launcher.out
    manifest = s3.read_manifest(stage.uri)
    assert manifest is not None
    assert manifest["facts"]["processes"] == 2
    told = json.loads(stage.output.read_text())["artifacts"]["model"]["artifacts"][0]
    assert told["metadata"]["uri"] == stage.uri
    assert told["metadata"]["key"] == stage.keys["train"]
    assert f"published {stage.uri}" in launcher.out  # rank 0's own words
    assert sorted(operator.created) == [f"{stage.name}-worker-{index}" for index in range(2)]
    (job,) = operator.jobs()
    assert job["metadata"]["annotations"][HASH]
    again = stage.start()
    assert again.end() == 0
    assert again.err == f"launcher: {stage.uri} is there already: nothing to do\n"
    assert len(operator.jobs()) == 1


def test_a_mistake_is_the_users_in_one_line(stage: Stage) -> None:
    lost = stage.replace(seed=1, job=JOB.model_copy(update={"max_restarts": 0}))
    lost.keys = {**lost.keys, "augment": "0" * 64}
    launcher = lost.start()
    assert launcher.end() == 2, launcher.err + launcher.out
    assert launcher.err.splitlines()[-1].startswith(
        f"launcher: {stage.root}/augment/{'0' * 64}: there is no such artifact"
    )


def test_a_job_without_kubeflow(stage: Stage, operator: Operator) -> None:
    """It is the same job as Kubeflow's launcher makes: each takes up the other's."""
    operator.command = stand_in(60, 0.1, PUBLISH)
    cluster = f"cluster: {{root: {stage.root}, s3_endpoint: {stage.seaweed.endpoint}, s3_region: us-east-1, "
    params = stage.folder / "with-job.yaml"
    params.write_text(f"{stage.params_text}{cluster}s3_secret: trm-s3, job: {json.dumps(JOB.model_dump())}}}\n")
    command = [sys.executable, "-m", "pipeline", "job", "--params", str(params)]
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
    assert job["metadata"]["annotations"][HASH] in printed.stdout.decode()


def test_a_job_wants_its_data_set_in_s3(stage: Stage, tmp_path: Path) -> None:
    params = tmp_path / "p.yaml"
    params.write_text(stage.params_text + f"cluster: {{root: {stage.root}/nothing, job: {{}}}}\n")
    command = [sys.executable, "-m", "pipeline", "job", "--params", str(params)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"pipeline: {stage.root}/nothing/augment/{stage.keys['augment']}: holds no dataset yet"
    )


def test_a_worker_that_fails_fails_the_stage(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(150, 0, "sys.exit(3)", of="worker-1")
    launcher = stage.start()
    assert launcher.end() == 1
    said = launcher.err.splitlines()
    assert said[-1].startswith(f"launcher: job {stage.name} failed: ")
    assert "worker 1 failed: exited with 3 (Error)" in said[-1]
    assert any(f"ExitedWithCode: Pod: default.{stage.name}-worker-1 exited with code 3" in line for line in said)
    assert launcher.lines() == list(range(50, 150))
    assert not stage.output.exists()
    assert operator.jobs()  # to be looked at


def test_a_job_that_ends_without_a_model_has_not_succeeded(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1, 0)
    launcher = stage.start()
    assert launcher.end() == 1
    assert launcher.err.splitlines()[-1].startswith(
        f"launcher: job {stage.name} succeeded, but {stage.uri} holds no model"
    )
    assert not stage.output.exists()


@pytest.mark.parametrize("worker", [0, 1])
def test_an_evicted_worker_comes_back(stage: Stage, operator: Operator, worker: int) -> None:
    """The first one, too, at which they meet and whose disk held the state: it comes back from S3."""
    name = f"worker-{worker}"
    longer = stage.replace(seed=2, epochs=8)
    launcher = longer.start()
    states = f"{stage.root}/states/{longer.keys['train']}"
    wait_for(lambda: any(name.endswith("manifest.json") for name in objects(stage.seaweed, states)))
    operator.evict(f"{longer.name}-{name}")
    assert launcher.end() == 0, launcher.err + launcher.out
    assert operator.created.count(f"{longer.name}-{name}") == 2
    # By itself after SIGTERM, or killed where it took its time.
    assert re.search(rf"{longer.name}-{name} exited with code (143|137)", launcher.err)
    (told,) = re.findall(r"train: goes on from step (\d+) of (\d+)", launcher.out)
    assert 10 <= int(told[0]) < int(told[1])  # a state is saved every 10 steps
    manifest = s3.read_manifest(longer.uri)
    assert manifest is not None
    assert manifest["facts"]["processes"] == 2


def test_a_launcher_that_was_killed_takes_its_job_up(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(100, 0.1, PUBLISH)
    first = stage.start()
    wait_for(lambda: len(first.lines()) > 10)
    first.process.kill()
    first.end()
    second = stage.start()
    assert second.end() == 0, second.err
    assert f"launcher: follows job {stage.name}" in second.err
    assert second.lines() == list(range(100))  # a new launcher tells the log from its beginning
    assert len(operator.created) == 2


def test_the_name_is_taken_by_a_job_of_another_spec(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1000, 0.1)
    first = stage.start()
    wait_for(operator.jobs)
    other = stage.replace(job=JOB.model_copy(update={"shared_memory": "2Gi"})).start()
    assert other.end() == 2
    (line,) = other.err.splitlines()
    assert line.startswith(f"launcher: job {stage.name} in namespace default is there with another spec; wait")
    assert f"kubectl -n default delete pytorchjob {stage.name}" in line
    assert len(operator.jobs()) == 1
    assert first.process.poll() is None
    first.process.terminate()
    first.end()


def test_lines_come_whole_and_once_whatever_connections_break(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(300, 0.03, PUBLISH)
    operator.kubelet.cut_after = [700, 0, 345, 2000, 1]
    launcher = stage.start()
    assert launcher.end() == 0, launcher.err
    assert operator.kubelet.cut_after == []
    assert launcher.lines() == list(range(300))


def test_an_api_server_that_is_away_for_a_while(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(100, 0.1, PUBLISH)
    launcher = stage.start()
    wait_for(lambda: len(launcher.lines()) > 10)
    stage.server.stop_api()
    time.sleep(2)
    stage.server.start_api()
    assert launcher.end() == 0, launcher.err
    assert "does not answer; asking again for up to 30 s" in launcher.err
    assert launcher.lines() == list(range(100))


def test_a_job_in_a_queue_is_waited_for_and_said_to_be(stage: Stage, operator: Operator) -> None:
    operator.capacity, operator.command = 1, stand_in(1, 0, PUBLISH, of="worker-1")
    launcher = stage.start()
    wait_for(lambda: operator.shortage in launcher.err)
    time.sleep(5)  # an hour
    assert launcher.process.poll() is None
    assert launcher.err.count(f"worker 1: pending: {operator.shortage}") == 1  # said when it changes
    operator.capacity = 2
    assert launcher.end() == 0, launcher.err


def test_a_stopped_run_leaves_no_job(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1000, 0.1)
    launcher = stage.start()
    wait_for(launcher.lines)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.end() == 143
    assert operator.jobs() == []
    assert operator.job_pods() == []
    assert all(running.process.poll() is not None for running in operator.pods.values())
    assert launcher.err.splitlines()[-2:] == [f"launcher: deleting job {stage.name}", "launcher: stopped by signal 15"]


def test_a_kept_job_goes_on(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1000, 0.1)
    launcher = stage.replace(job=JOB.model_copy(update={"keep": True})).start()
    wait_for(launcher.lines)
    launcher.process.send_signal(signal.SIGINT)
    assert launcher.end() == 130
    assert len(operator.jobs()) == 1
    assert f"launcher: job {stage.name} is kept and goes on" in launcher.err


def test_a_job_that_someone_deletes(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1000, 0.1)
    launcher = stage.start()
    wait_for(launcher.lines)
    operator.custom.delete_namespaced_custom_object("kubeflow.org", "v1", "default", "pytorchjobs", stage.name)
    assert launcher.end() == 1
    assert launcher.err.splitlines()[-1].startswith(f"launcher: job {stage.name} was deleted by another")


def test_a_failure_is_told_to_its_own_launcher_and_tried_again_by_the_next(stage: Stage, operator: Operator) -> None:
    operator.command = stand_in(1, 0, "sys.exit(3)")
    stage.more = {"POD_NAME": "launcher", "POD_UID": "11111111-2222-3333-4444-555555555555"}
    assert stage.start().end() == 1
    (job,) = operator.jobs()
    assert job["metadata"]["ownerReferences"][0]["uid"] == stage.more["POD_UID"]
    assert stage.start().end() == 1  # it was away when the job failed
    assert operator.jobs()[0]["metadata"]["uid"] == job["metadata"]["uid"]
    operator.command = stand_in(1, 0, PUBLISH)
    stage.more["POD_UID"] = "99999999-2222-3333-4444-555555555555"
    later = stage.start()
    assert later.end() == 0, later.err
    assert operator.jobs()[0]["metadata"]["uid"] != job["metadata"]["uid"]


def test_workers_that_are_killed_again_and_again(stage: Stage, operator: Operator) -> None:
    """The operator makes a worker that ran out of memory anew, for ever."""
    operator.command = stand_in(1, 0, "import os; os.kill(os.getpid(), 9)", of="worker-1")
    launcher = stage.start()
    assert launcher.end() == 2
    assert re.match(
        r"launcher: workers were killed [4-9] times within an hour \(exit code 137", launcher.err.splitlines()[-1]
    )
    assert operator.jobs() == []


def test_more_gpus_than_any_node_has(stage: Stage, operator: Operator) -> None:
    launcher = stage.replace(resources=Resources(gpus=GPUS + 1)).start()
    assert launcher.end() == 2
    assert launcher.err == (
        f"launcher: a worker asks for {GPUS + 1} {GPU} and no node has more than {GPUS}; lower "
        "cluster.stages.train.gpus, or name a type of nodes in cluster.stages.train.node_selector\n"
    )
    assert operator.jobs() == []


def test_gpus_of_a_type_of_nodes_of_which_none_is_there(stage: Stage, operator: Operator) -> None:
    """One may be made for the job, so it is created and waits."""
    kind = Resources(gpus=GPUS + 1, node_selector={"type": "large"})
    launcher = stage.replace(resources=kind).start()
    wait_for(operator.jobs)
    assert launcher.process.poll() is None


def test_a_secret_that_is_not_there(stage: Stage, operator: Operator) -> None:
    launcher = stage.replace(secret="trm-s4").start()
    assert launcher.end() == 2
    assert launcher.err.splitlines()[-1] == (
        'launcher: worker 0 cannot start: CreateContainerConfigError: secrets "trm-s4" not found; create what is '
        "missing, or correct section cluster"
    )
    assert operator.jobs() == []


def test_a_launcher_without_rights(stage: Stage, operator: Operator) -> None:
    launcher = stage.start(user="nobody")
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    assert line.startswith("launcher: pytorchjobs.kubeflow.org")
    assert 'cannot get resource "pytorchjobs" in API group "kubeflow.org" in the namespace "default"; give' in line


def test_the_rights_that_a_launcher_needs(stage: Stage, operator: Operator) -> None:
    rights = {("kubeflow.org", "pytorchjobs"): ["get", "create", "delete"], ("", "pods"): ["list"]}
    rights |= {("", "pods/log"): ["get"], ("", "events"): ["list"]}
    rules = [{"apiGroups": [group], "resources": [kind], "verbs": verbs} for (group, kind), verbs in rights.items()]
    roles = "apis/rbac.authorization.k8s.io/v1/namespaces/default"
    name = {"metadata": {"name": "launcher"}}
    to = {"subjects": [{"kind": "User", "name": "launcher"}], "roleRef": {"kind": "Role", "name": "launcher"}}
    assert stage.server.post(f"{roles}/roles", {**name, "rules": rules}).status_code == 201
    assert stage.server.post(f"{roles}/rolebindings", {**name, **to}).status_code == 201
    operator.command = stand_in(1, 0, "sys.exit(3)")
    failed = stage.start(user="launcher")
    assert failed.end() == 1
    assert failed.lines() == [0, 0]  # followed, and told again as the end of a failed worker's log
    operator.command = stand_in(1000, 0.1)
    stopped = stage.start(user="launcher")  # deletes the one that failed
    wait_for(stopped.lines)
    stopped.process.terminate()
    assert stopped.end() == 143
    assert operator.jobs() == []


def test_a_cluster_without_the_operator(stage: Stage, bare_apiserver: ApiServer) -> None:
    launcher = stage.replace(server=bare_apiserver).start()
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    assert "has no PyTorchJob (kubeflow.org/v1); install Kubeflow's training operator" in line


def test_no_cluster(stage: Stage, tmp_path: Path) -> None:
    launcher = stage.replace(more={"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}).start()
    assert launcher.end() == 2
    (line,) = launcher.err.splitlines()
    assert line.startswith("launcher: no cluster: ")
    assert line.endswith("name a kubeconfig in $KUBECONFIG")


def test_the_server_takes_the_manifest_of_every_setting(apiserver: ApiServer) -> None:
    cluster = ClusterParams(job=JobParams(), s3_secret="s", cache_claim="c", image_pull_secret="p")
    made = fill(template(cluster), ["train"], "a" * 64, "s3://a", {"name": "p", "uid": "u"})
    path = "apis/kubeflow.org/v1/namespaces/default/pytorchjobs?dryRun=All"
    answer = apiserver.post(path, made)
    assert answer.status_code == 201, answer.text
