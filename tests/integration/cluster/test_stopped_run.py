"""A stopped pipeline run does not leave its training job: the launcher in Kubeflow's container, and `pipeline stop`."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.components.train.fake_cluster import FakeCluster, wait_for
from tests.components.train.launcher_fixtures import Stage, replacement_command
from tests.conftest import ROOT
from tests.pipeline.kfp.fake_server import kfp_server
from tests.preload import python

pytestmark = pytest.mark.slow
GRACE_PERIOD = 1.0
"""Seconds from the signal until the emissary of Argo ends the container."""


class Container:
    """The container of stage `train` in a pipeline run.

    Argo's emissary starts KFP's Go launcher, and this one starts the user's process in the same process group and
    copies its output through pipes.
    """

    def __init__(self, stage: Stage) -> None:
        code = f"import components.train.kubernetes_client as c; c.RETRY_TIMEOUT = {stage.retry_timeout}; "
        code += "from components.train.launcher import main; main()"
        environment = {**os.environ, **stage.seaweed.environment(), "KUBECONFIG": str(stage.server.kubeconfig())}
        self.process = subprocess.Popen(
            # Not a fork of `tests.preload`, which would be outside the process group that is signalled.
            [sys.executable, "-c", code, *stage.arguments()],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Stop the run: the Go launcher dies at once of the signal, so that the pipes close. Then the emissary ends."""
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        time.sleep(GRACE_PERIOD)
        self.kill()

    def kill(self) -> None:
        """Kill all processes of the container."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.parametrize("signals", [1, 2])
def test_stopped_container_deletes_its_job(stage: Stage, operator: FakeCluster, signals: int) -> None:
    """Also if a second signal arrives during the deletion."""
    operator.command = replacement_command(100_000, 0.005)  # the launcher is printing all the time
    container = Container(stage)
    try:
        assert container.process.stdout is not None
        assert container.process.stdout.readline() == b"line 0\n"
        assert len(operator.jobs()) == 1
        if signals == 2:
            os.killpg(container.process.pid, signal.SIGTERM)
        container.stop()
    finally:
        container.kill()
    assert operator.jobs() == []


def test_launcher_survives_the_loss_of_its_output(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(500, 0.01, "sys.exit(3)")
    container = Container(stage)
    try:
        assert container.process.stdout is not None and container.process.stderr is not None
        container.process.stdout.readline()
        container.process.stdout.close()
        container.process.stderr.close()
        assert container.process.wait(120) == 1  # the job has failed
    finally:
        container.kill()


def pipeline_stop(stage: Stage, host: str, kubeconfig: Path) -> subprocess.CompletedProcess[str]:
    cluster = (
        f"cluster: {{artifact_root: {stage.root}, kfp_host: '{host}', train_job: {json.dumps(stage.job.model_dump())}}}"
    )
    params = stage.folder / "stop.yaml"
    params.write_text(f"{stage.params_text}{cluster}\n")
    command = [python(), "-m", "pipeline", "stop", "run-1", "--params", str(params)]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(stage.folder)}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("state", ["RUNNING", "CANCELED"])
def test_stop_command_deletes_the_job(stage: Stage, operator: FakeCluster, state: str) -> None:
    """Also after the launcher was killed, and when the run has already been stopped."""
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.start()
    wait_for(launcher.lines)
    launcher.process.kill()
    with kfp_server() as server:
        config = server.add_run("trm", state)
        config.runtime_config = {"parameters": {"train_key": stage.keys["train"], "artifact_root": stage.root}}
        done = pipeline_stop(stage, server.host, stage.server.kubeconfig())
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == f"deleting job {stage.name} in namespace default"
        assert server.runs["run-1"].state == ("CANCELING" if state == "RUNNING" else state)
        assert operator.jobs() == []
        again = pipeline_stop(stage, server.host, stage.server.kubeconfig())
        assert again.stderr.splitlines()[-1] == f"no job {stage.name} is running"
        without = pipeline_stop(stage, server.host, stage.folder / "none")
        assert (without.returncode, "left to its launcher" in without.stderr) == (0, True)
        refused = pipeline_stop(stage, server.host, stage.server.kubeconfig("unprivileged"))
        assert refused.returncode == 2
        assert "grant the" in refused.stderr.splitlines()[-1]


def test_stop_command_keeps_a_job_with_keep_on_stop(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1000, 0.1)
    launcher = stage.with_job(keep_on_stop=True).start()
    wait_for(launcher.lines)
    launcher.process.kill()
    with kfp_server() as server:
        server.add_run("trm").runtime_config = {"parameters": {"train_key": stage.keys["train"]}}
        done = pipeline_stop(stage, server.host, stage.server.kubeconfig())
    assert f"job {stage.name} in namespace default continues (keep_on_stop)" in done.stderr
    assert len(operator.jobs()) == 1
