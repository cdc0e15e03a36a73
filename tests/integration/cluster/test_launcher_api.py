"""Requests of the launcher to a real API server: rotated credentials, and the number of queries."""

import re
import time
from pathlib import Path

import pytest

from tests.apiserver import ApiServer
from tests.components.train.fake_cluster import FakeCluster, wait_for
from tests.components.train.launcher_fixtures import PUBLISH, Stage, one_backend, replacement_command

pytestmark = pytest.mark.slow


def event_lists(server: ApiServer) -> int:
    """Return how many times the events were listed since the server was started."""
    text = server.http("GET", "metrics").text
    counts = re.findall(r'^apiserver_request_total\{(?=.*resource="events")(?=.*verb="LIST").*\} (\d+)', text, re.M)
    return sum(map(int, counts))


@pytest.fixture
def user(apiserver: ApiServer) -> str:
    """A user with all permissions, whose token a test may replace."""
    bindings = "apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    subject = {"subjects": [{"kind": "User", "name": "rotating"}]}
    role = {"roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}}
    apiserver.post(bindings, {"metadata": {"name": "rotating"}, **subject, **role})
    return "rotating"


@one_backend
@pytest.mark.parametrize("delay", [0.0, 3.0], ids=["before", "later"])
def test_rotated_token_is_read_again(stage: Stage, operator: FakeCluster, user: str, delay: float) -> None:
    """Also if the new token is in the file only some time after the server refuses the old one."""
    go_on = stage.folder / "go-on"  # the job outlasts the fault, however long this takes
    wait = f"while not os.path.exists({str(go_on)!r}): time.sleep(0.1)\n"
    operator.command = replacement_command(100, 0.1, wait + PUBLISH)
    launcher = stage.start(user=user)
    wait_for(lambda: len(launcher.lines()) > 10)
    stage.server.stop_api()
    stage.server.renew_token(user)
    if not delay:
        stage.server.kubeconfig(user)
    stage.server.start_api()
    time.sleep(delay)
    stage.server.kubeconfig(user)
    wait_for(lambda: len(launcher.lines()) >= 100)
    go_on.touch()
    assert launcher.end() == 0, launcher.err
    assert launcher.lines() == list(range(100))


@one_backend
def test_wrong_token_is_reported_at_once(stage: Stage, operator: FakeCluster, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    text = stage.server.kubeconfig().read_text()
    config.write_text(re.sub('"token": "[0-9a-f]+"', '"token": "wrong"', text))
    launcher = stage.replace(more={"KUBECONFIG": str(config)}).start()
    assert launcher.end() == 2
    assert "authentication failed (401" in launcher.err
    assert operator.jobs() == []


@one_backend
def test_events_are_listed_once_per_interval_for_all_workers(stage: Stage, operator: FakeCluster) -> None:
    operator.capacity = 0
    launcher = stage.start()
    wait_for(lambda: launcher.err.count(operator.shortage) >= 2)
    before = event_lists(stage.server)
    time.sleep(6)  # three queries of the job's status
    assert event_lists(stage.server) - before <= 1
    assert launcher.process.poll() is None
