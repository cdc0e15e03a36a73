"""Training on two nodes, which are network namespaces: one is cut off or lost, and both are started again."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.integration.test_distributed import published
from tests.integration.torchrun_experiment import Experiment
from tests.preload import python

__all__ = ["published"]
pytestmark = pytest.mark.slow
PORT = 29500
STALL = 4.0
"""Seconds without a step after which a process ends."""
FAULTS = ("link of the second node", "first node")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Nodes:
    """Two network namespaces with a link between them. The first one hosts the rendezvous of torchrun."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.names = [f"trm-{token}-{number}" for number in (0, 1)]
        self.links = [f"veth{token}{number}" for number in (0, 1)]
        self.processes: list[subprocess.Popen[str]] = []
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for number, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", link)
            ip("-n", name, "link", "set", "lo", "up")
        self.connect()

    def connect(self) -> None:
        for name, link in zip(self.names, self.links, strict=True):
            ip("-n", name, "link", "set", link, "up")

    def disconnect(self, number: int) -> None:
        ip("-n", self.names[number], "link", "set", self.links[number], "down")

    def start(self, experiment: Experiment, log: Path) -> None:
        """Start the training with a process on each node; the folder of states is shared."""
        self.processes = []
        for number, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=0"]
            torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=10.77.0.1:{PORT}", f"--rdzv-id={self.names[0]}"]
            torchrun += [
                f"--rdzv-conf=is_host={int(number == 0)},join_timeout=60",
                f"--local-addr=10.77.0.{number + 1}",
            ]
            words = ["-m", "trm", "train", "--dataset", str(experiment.dataset), "--model", f"model-{number}"]
            environment = os.environ | {
                "TRM_STATE_DIR": experiment.states,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "PYTHON_EXEC": python(),  # of the processes that torchrun starts
                "GLOO_SOCKET_IFNAME": link,
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            }
            with (log.parent / f"{log.name}-{number}").open("w") as output:
                process = subprocess.Popen(
                    ["ip", "netns", "exec", name, sys.executable, *torchrun, *words],
                    cwd=experiment.folder,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            self.processes.append(process)

    def pids(self, number: int) -> list[int]:
        """The processes of a node."""
        listed = subprocess.run(["ip", "netns", "pids", self.names[number]], check=True, capture_output=True, text=True)
        return list(map(int, listed.stdout.split()))

    def trains(self, number: int) -> bool:
        """Whether a process on this node trains. Its torchrun, which cannot reach the other one, may still wait."""
        lines = (Path(f"/proc/{pid}/cmdline") for pid in self.pids(number))
        return any(line.exists() and b"torch.distributed" not in line.read_bytes() for line in lines)

    def kill(self, number: int) -> None:
        """Kill torchrun and what it has started on a node, as a loss of power does."""
        for pid in self.pids(number):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def delete(self) -> None:
        for number, name in enumerate(self.names):
            self.kill(number)
            ip("netns", "del", name)
        for process in self.processes:
            process.wait(timeout=20)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if sys.platform != "linux" or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs Linux, the command ip, and root, who may create network namespaces")
    try:
        made = Nodes()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be created here: {error.stderr.decode().strip()}")
    yield made
    made.delete()


@pytest.fixture(scope="module")
def whole(published: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The output of an uninterrupted training with two processes."""
    experiment = Experiment(tmp_path_factory.mktemp("whole") / "run", published, CHANGES)
    experiment.train(2)
    return files(experiment.folder / "model")


CHANGES = {"train.epochs": 80, "train.max_stall_seconds": STALL}
NAMES = ("checkpoint.safetensors", "train.tsv", "validation.tsv")


def files(model: Path) -> dict[str, bytes]:
    return {name: (model / name).read_bytes() for name in NAMES}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_is_lost(
    nodes: Nodes, whole: dict[str, bytes], published: Path, tmp_path: Path, fault: str
) -> None:
    """No process trains on, nothing is published, and the next start publishes the right bytes."""
    experiment = Experiment(tmp_path / "run", published, CHANGES)
    nodes.start(experiment, tmp_path / "log")
    while experiment.steps_done() < 30:
        assert all(process.poll() is None for process in nodes.processes), logs(tmp_path)
        time.sleep(0.01)
    if fault.startswith("link"):
        nodes.disconnect(1)
    else:
        nodes.kill(0)
    deadline = time.monotonic() + 60
    while nodes.trains(0) or nodes.trains(1):
        assert time.monotonic() < deadline, logs(tmp_path)
        time.sleep(0.1)
    for number in (0, 1):  # both nodes are started again
        nodes.kill(number)
    assert all(process.wait(timeout=20) for process in nodes.processes)
    assert not list(experiment.folder.glob("model*"))
    seen = experiment.steps_done()
    assert 30 <= seen < 200
    nodes.connect()
    nodes.start(experiment, tmp_path / "log")
    assert [process.wait(timeout=100) for process in nodes.processes] == [0, 0], logs(tmp_path)
    (model,) = experiment.folder.glob("model-?")
    assert files(model) == whole
    assert "train: resuming from step" in logs(tmp_path)


def logs(folder: Path) -> str:
    return "".join(path.read_text()[-3000:] for path in sorted(folder.glob("log-*")))
