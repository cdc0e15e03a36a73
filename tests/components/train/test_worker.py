"""Worker without rendezvous; the tests of the launcher cover the other cases."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apiserver import free_ports
from tests.components.train.fake_cluster import wait_for
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "settings"),
    [
        ("127.0.0.1", {"PET_RDZV_CONF": "is_host=0,read_timeout=1"}),
        # The first worker of a TrainJob has no name before it has an address.
        ("trm-0-node-0-0.trm-0.invalid", {"PET_RDZV_CONF": "read_timeout=1"}),
    ],
    ids=["no server", "no name"],
)
def test_rendezvous_is_retried_until_sigterm(tmp_path: Path, host: str, settings: dict[str, str]) -> None:
    rendezvous = {"PET_RDZV_BACKEND": "c10d", "PET_NNODES": "2:2", **settings}
    environment = {**os.environ, **rendezvous, "PET_RDZV_ENDPOINT": f"{host}:{free_ports(1)[0]}"}
    command = [sys.executable, "-m", "components.train.worker", "--nproc-per-node=1", "train", "--params", "{}"]
    stderr = tmp_path / "stderr"
    with stderr.open("wb") as err, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=err) as worker:
        try:
            wait_for(lambda: stderr.read_text().count("worker: first worker unavailable") > 1)
            assert worker.poll() is None
            worker.terminate()
            assert worker.wait(60) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            worker.kill()
