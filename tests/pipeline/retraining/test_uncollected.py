"""Runs that a workflow collects: their texts come from everybody who may submit runs."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kfp_server_api
import pytest

from pipeline.retraining.uncollected import list_uncollected
from tests.conftest import ROOT
from tests.pipeline.kfp.fake_server import FakeKfpServer, kfp_server
from tests.pipeline.retraining.test_publish import git, remote
from trm.config.cluster import ClusterParams

__all__ = ["remote"]
KEY = "a" * 64
REQUIREMENTS = ROOT / "requirements/workflows.in"
LOCKED = ROOT / "requirements/workflows.txt"


@pytest.fixture
def server(remote: Path) -> Iterator[FakeKfpServer]:
    Path("runs.tsv").unlink()
    with kfp_server() as server:
        yield server


def add(server: FakeKfpServer, description: str, key: object = KEY, root: str = "s3://trm/artifacts") -> Any:
    server.experiments.setdefault("trm", kfp_server_api.V2beta1Experiment(experiment_id="e-1", display_name="trm"))
    config: Any = kfp_server_api.V2beta1RuntimeConfig(parameters={"evaluate_key": key, "artifact_root": root})
    return server.add_run("trm", "SUCCEEDED", runtime_config=config, description=description)


def uncollected(server: FakeKfpServer) -> list[dict[str, str]]:
    return list_uncollected(ClusterParams(kfp_host=server.host))


def test_commit_of_main_is_listed(server: FakeKfpServer) -> None:
    commit = git("rev-parse", "HEAD")
    run = add(server, f"commit {commit}, image x")
    assert uncollected(server) == [{"run": run.run_id, "key": KEY, "commit": commit}]


@pytest.mark.parametrize(
    "description",
    [
        "commit main, image x",
        "commit refs/pull/7/merge, image x",
        "commit HEAD, image x",
        "commit {head}~0, image x",
        "commit {short}, image x",
        "commit --upload-pack=touch, image x",
        "commit {unmerged}, image x",
        "commit {zeros}, image x",
        "",
    ],
)
def test_other_commits_are_not_listed(
    server: FakeKfpServer, description: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head = git("rev-parse", "HEAD")
    unmerged = git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "not reviewed")
    git("push", "-q", "origin", f"{unmerged}:refs/heads/mine")
    words = {"head": head, "short": head[:12], "unmerged": unmerged, "zeros": "0" * 40}
    add(server, description.format(**words))
    assert uncollected(server) == []
    assert "collect it manually" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["", "a" * 63, "../../main", f"{KEY}\nruns=x", f"{'a' * 63}G", 7.0])
def test_other_keys_are_not_listed(server: FakeKfpServer, key: object) -> None:
    add(server, f"commit {git('rev-parse', 'HEAD')}, image x", key)
    assert uncollected(server) == []


def test_other_artifact_roots_and_run_ids_are_not_listed(server: FakeKfpServer) -> None:
    commit = git("rev-parse", "HEAD")
    add(server, f"commit {commit}, image x", root="s3://another/bucket")
    assert uncollected(server) == []
    run = add(server, f"commit {commit}, image x")
    run.run_id = "--params=/etc/passwd"
    assert uncollected(server) == []


def test_escape_sequences_of_a_run_are_not_printed(server: FakeKfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    add(server, "commit \x1b]0;title\x07\x1b[2J, image x")
    uncollected(server)
    assert "\x1b" not in capsys.readouterr().err


def light_packages() -> set[str]:
    """Return the packages that `make install-light` installs, with their dependencies."""
    pending = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    found: set[str] = set()
    while pending:
        name = re.split(r"[^\w.-]", pending.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            with suppress(importlib.metadata.PackageNotFoundError):  # of another Python or platform
                required = importlib.metadata.requires(name) or []
                pending += [line for line in required if "extra ==" not in line]
    return found


def test_every_file_of_these_packages_has_a_digest() -> None:
    """The versions are those of constraints.txt, and pip refuses files with other digests."""
    pins = dict(line.split("==", 1) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    versions = {name.lower().replace("_", "-"): version.partition(" ")[0] for name, version in pins.items()}
    locked = {}
    for entry in re.split(r"\n(?! )", LOCKED.read_text().strip()):
        name, _, rest = entry.partition("==")
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), name
        locked[name] = rest.split()[0]
    assert light_packages() & set(versions) <= set(locked)
    assert {name: version for name, version in locked.items() if versions.get(name) != version} == {}


BLOCK = """
import importlib.metadata, json, sys
allowed = set(json.loads(sys.argv.pop(1)))
for module, names in importlib.metadata.packages_distributions().items():
    if not {name.lower().replace("_", "-") for name in names} & allowed and module not in ("trm", "_virtualenv"):
        sys.modules.setdefault(module, None)
"""


@pytest.mark.parametrize("command", ["list-uncollected", "publish"])
def test_scheduled_steps_need_no_libraries_of_the_stages(server: FakeKfpServer, command: str) -> None:
    """They run 48 times a day: installing torch would take longer than everything else."""
    allowed = light_packages()
    assert not allowed & {"torch", "numpy", "numba", "pyarrow", "kfp", "dvc", "boto3"}
    commit = git("rev-parse", "HEAD")
    add(server, f"commit {commit}, image x")
    Path("params.yaml").write_text(f"cluster: {{kfp_host: '{server.host}'}}\n")
    more = [] if command == "list-uncollected" else ["--files", "result", "--key", KEY, "--commit", commit]
    code = BLOCK + "from pipeline.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sorted(allowed)), command, *more],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if command == "publish":
        assert (done.returncode, done.stderr) == (2, "pipeline: result/dvc.lock: missing; collect the run again\n")
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0]["commit"] == commit
