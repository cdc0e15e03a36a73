"""Logs of all workers of a training job: `python -m pipeline logs RUN --worker N` and what the launcher stores."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.train.backend import logs_uri
from components.train.worker_logs import MAX_BYTES, stored_logs
from tests.components.train.fake_cluster import FakeCluster, wait_for
from tests.components.train.launcher_fixtures import PUBLISH, Launcher, Stage, one_backend, replacement_command
from tests.conftest import ROOT
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from tests.preload import python

pytestmark = pytest.mark.slow
WAIT = "while not os.path.exists({file!r}): time.sleep(0.1)\n"
SPEAKING = """
import os, sys, time
print("worker", sys.argv[2], "started", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.1)
print("worker", sys.argv[2], "ended", os.environ.get("AWS_SECRET_ACCESS_KEY"), flush=True)
while not os.path.exists(os.environ["FAKE_DONE"]): time.sleep(0.1)
"""


def speaking(lines: int, then: str, end: Path) -> Callable[[list[str], str], list[str]]:
    """Return commands with output: worker 0 prints lines and ends all; the others print a second line after `end`."""
    first = replacement_command(lines, 0.1, then)

    def command(arguments: list[str], name: str) -> list[str]:
        if name == "worker-0":
            return first(arguments, name)
        return [sys.executable, "-c", SPEAKING, str(end), name.rpartition("-")[2]]

    return command


def running(operator: FakeCluster) -> dict[int, str]:
    """Return index -> name of the pod, for workers that run."""
    pods = (pod for pod in operator.job_pods() if pod.status.phase == "Running")
    return {operator.backend.worker_index(pod): pod.metadata.name for pod in pods}


class Logs:
    """The command `python -m pipeline logs`, for a run of the stage."""

    def __init__(self, stage: Stage, server: FakeKfpServer, kubeconfig: Path | None = None) -> None:
        self.stage, self.server = stage, server
        arguments = {"artifact_root": stage.root, "train_key": stage.keys["train"]}
        self.run = server.add_run("trm", runtime_config={"parameters": arguments})
        self.params = stage.folder / "logs.yaml"
        cluster = f"{{artifact_root: {stage.root}, kfp_host: '{server.host}', "
        cluster += f"train_job: {{backend: {stage.job.backend}, max_workers: 2, min_workers: 2}}}}"
        self.params.write_text(f"{stage.params_text}cluster: {cluster}\n")
        self.kubeconfig = kubeconfig or stage.server.kubeconfig()

    def start(self, worker: int, *options: str) -> Launcher:
        command = [python(), "-m", "pipeline", "logs", self.run.run_id, "--params", str(self.params)]
        environment = {**os.environ, **self.stage.seaweed.environment(), "KUBECONFIG": str(self.kubeconfig)}
        started = Launcher([*command, "--worker", str(worker), *options], environment, self.stage.folder)
        self.stage.started.append(started)
        return started

    def read(self, worker: int, *options: str) -> str:
        started = self.start(worker, *options)
        assert started.end() == 0, started.err
        return started.out


def test_logs_of_all_workers_during_and_after_the_job(stage: Stage, operator: FakeCluster, tmp_path: Path) -> None:
    end, go_on = tmp_path / "end", tmp_path / "go-on"  # the pod of a worker may be deleted with the job
    operator.command = speaking(80, WAIT.format(file=str(go_on)) + PUBLISH, end)
    with kfp_server() as server:
        logs = Logs(stage, server)
        launcher = stage.start()
        wait_for(lambda: len(running(operator)) == 2)
        wait_for(lambda: "worker 1 started" in logs.read(1))
        following = [logs.start(worker, "--follow") for worker in (0, 1)]
        end.touch()
        wait_for(lambda: "worker 1 ended" in following[1].out and len(launcher.lines()) == 80)
        go_on.touch()
        assert launcher.end() == 0, launcher.err
        assert "worker 1" not in launcher.out
        assert [each.end() for each in following] == [0, 0]
        assert following[0].lines() == list(range(80))
        secret = stage.seaweed.environment()["AWS_SECRET_ACCESS_KEY"]
        assert following[1].out == f"worker 1 started\nworker 1 ended {secret}\n"  # as `kubectl logs` prints it
        operator.delete_job(stage.name)
        wait_for(lambda: not operator.job_pods())
        expected = "worker 1 started\nworker 1 ended ***\n"
        logs.run.state = "SUCCEEDED"
        assert logs.read(1) == logs.read(1, "--follow") == expected
        nowhere = Logs(stage, server, tmp_path / "none")
        assert nowhere.read(1) == expected  # a kubeconfig is not required
        assert nowhere.read(0).splitlines() == [f"line {number}" for number in range(80)]
        failed = nowhere.start(1, "--follow")
        assert failed.end() == 2
        assert failed.err.startswith("pipeline: --follow reads the log of the worker from the cluster: no Kubernetes")
        absent = nowhere.start(2)
        assert absent.end() == 2
        assert absent.err.startswith(f"pipeline: run {nowhere.run.run_id}: no log of worker 2; it has not started")


def test_log_of_a_replaced_worker_is_kept(stage: Stage, operator: FakeCluster, tmp_path: Path) -> None:
    """Both back ends delete or replace the pod; `logs` prints the log of the first one from S3, then the second."""
    operator.command = speaking(100_000, "", tmp_path / "never")
    with kfp_server() as server:
        logs = Logs(stage, server)
        launcher = stage.start()
        wait_for(lambda: len(running(operator)) == 2)
        wait_for(lambda: "worker 1 started" in logs.read(1))
        uri = logs_uri(stage.root, stage.keys["train"])
        wait_for(lambda: len(stored_logs(uri, 1)) == 1)
        operator.evict(1)
        wait_for(lambda: len(stored_logs(uri, 1)) == 2)
        assert logs.read(1) == "worker 1 started\n" * 2
        launcher.process.terminate()
        assert launcher.end() == 143
        assert list(stored_logs(uri, 1).values()) == ["worker 1 started\n"] * 2
        assert len(stored_logs(uri, 0)) == 1


@one_backend
def test_job_continues_if_its_logs_cannot_be_stored(stage: Stage, operator: FakeCluster, tmp_path: Path) -> None:
    """The credentials of the launcher can only read the bucket."""
    go_on = tmp_path / "go-on"
    operator.command = speaking(20, WAIT.format(file=str(go_on)) + PUBLISH, tmp_path / "never")
    stage.more = stage.seaweed.environment("reader")
    launcher = stage.start()
    wait_for(lambda: len(launcher.lines()) == 20)
    go_on.touch()
    assert launcher.end() == 0, launcher.err
    (line,) = (line for line in launcher.err.splitlines() if "logs" in line)
    assert line.startswith("launcher: the logs of the workers cannot be stored (")
    assert line.endswith("); the job continues")


@one_backend
def test_end_of_a_long_log_is_stored(stage: Stage, operator: FakeCluster) -> None:
    go_on = stage.folder / "go-on"  # the pod of a worker may be deleted with the job, and its log with it
    long = "for number in range(1500): print(number, 'x' * 1000, flush=True)\n"
    operator.command = replacement_command(0, 0, long + WAIT.format(file=str(go_on)) + PUBLISH)
    launcher = stage.start()
    wait_for(lambda: "\n1499 x" in launcher.out)
    go_on.touch()
    assert launcher.end() == 0, launcher.err
    (text,) = stored_logs(logs_uri(stage.root, stage.keys["train"]), 0).values()
    head, *lines = text.splitlines()
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(1500))[-len(numbers) :]
    assert head == f"({1500 - len(numbers)} earlier lines are not stored)"
    assert MAX_BYTES - 1010 < len(text) - len(head) - 1 <= MAX_BYTES


def test_worker_option_belongs_to_the_training() -> None:
    command = [python(), "-m", "pipeline", "logs", "run-1", "--stage", "evaluate", "--worker", "0"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "pipeline: --worker requires --stage train. Got --stage evaluate; only the training has workers\n"
    )
