"""Result files that one job of a workflow hands over to another one, which may write to the repository."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.retraining.publish import publish_handover
from pipeline.runs import write_runs
from tests.pipeline.retraining.test_publish import BRANCH, KEY, FakeGitHub, git, hub, remote
from trm.stages.records import REQUIRED_STAGES
from trm.utils.errors import DataError, UserError

__all__ = ["hub", "remote"]


def lock(**changes: Any) -> dict[str, Any]:
    stages = {
        stage.name: {"cmd": "x", "outs": [{"path": f"outputs/{stage.output}", "md5": "0" * 32 + ".dir"} | changes]}
        for stage in REQUIRED_STAGES
    }
    return {"schema": "2.0", "stages": stages}


def write_lock(path: Path, value: object) -> None:
    with path.open("w") as file:
        YAML().dump(value, file)


@pytest.fixture
def result(remote: Path, tmp_path: Path) -> Path:
    """The files of the job that collects, as the workflow's artifact holds them."""
    folder = tmp_path / "result"
    (folder / "outputs").mkdir(parents=True)
    write_lock(folder / "dvc.lock", lock())
    metrics = {"keys": {"evaluate": KEY}, "metrics": {"exact_accuracy": 0.75}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_runs([], folder / "runs.tsv")
    (folder / "outputs/comparison.md").write_text("### The candidate of @somebody is better\n")
    (folder / "outputs/comparison.html").write_text("<html>")
    return folder


def test_handed_over_files_are_published_on_the_commit_of_the_run(result: Path, remote: Path, hub: FakeGitHub) -> None:
    commit = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "later")
    git("push", "-q", "origin", "main")
    assert publish_handover("main", result, KEY, commit) == "pull-1"
    assert git("rev-parse", f"{BRANCH}^", cwd=remote) == commit
    changed = git("diff", "--name-only", commit, BRANCH, cwd=remote).splitlines()
    assert changed == ["dvc.lock", "metrics.json", "runs.tsv"]
    (pull,) = hub.pulls
    assert pull["title"] == f"Result {KEY[:12]}: exact accuracy 75.0 %"
    assert "@somebody" not in pull["body"]  # nobody is notified


def _replace(name: str, text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)


def _link(name: str, target: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def _lock(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_lock(folder / "dvc.lock", lock(**changes))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_replace("trm.py", "import os"), "not a result file"),
        (_replace("outputs/model.bin", "x"), "not a result file"),
        (_link("outputs/comparison.md", "/etc/hostname"), "not a result file"),
        (_link("metrics.json", "dvc.lock"), "not a result file"),
        (_link("folder", "/etc"), "not a result file"),
        (lambda folder: (folder / "dvc.lock").unlink(), "missing"),
        (_replace("outputs/comparison.md", "x" * 60_001), "larger than 60000 bytes"),
        (_replace("metrics.json", " " * (1 << 19)), "larger than"),
        (_replace("runs.tsv", b"\xff"), "not UTF-8"),
        (_replace("runs.tsv", "stage\tkey\n"), "not written by `collect`"),
        (_replace("metrics.json", "{}"), "not written by `collect`"),
        (_replace("metrics.json", json.dumps({"keys": {"evaluate": "b" * 64}, "metrics": {}})), "not the result"),
        (_replace("metrics.json", json.dumps({"keys": {"evaluate": KEY}, "metrics": {"exact_accuracy": "1"}})), "not"),
        (_replace("dvc.lock", "schema: '2.0'\n"), "not a lock file"),
        (_replace("dvc.lock", "- 1\n"), "not a lock file"),
        (_replace("dvc.lock", "a: [\n"), "not a lock file"),
        (_lock(path="../../.bashrc"), "not those of dvc.yaml"),
        (_lock(path="trm/cli"), "not those of dvc.yaml"),
        (_lock(md5="../../x"), "not those of dvc.yaml"),
    ],
)
def test_other_files_are_rejected(
    result: Path, remote: Path, hub: FakeGitHub, change: Callable[[Path], object], problem: str
) -> None:
    change(result)
    with pytest.raises(DataError, match=problem):
        publish_handover("main", result, KEY, git("rev-parse", "HEAD"))
    assert hub.requests == []
    assert git("branch", "--list", "retrain/*", cwd=remote) == ""


@pytest.mark.parametrize("commit", ["main", "HEAD", "0" * 40, "--all", "unmerged"])
def test_other_commits_are_rejected(result: Path, remote: Path, hub: FakeGitHub, commit: str) -> None:
    if commit == "unmerged":
        commit = git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "not reviewed")
    with pytest.raises(UserError, match="--commit"):
        publish_handover("main", result, KEY, commit)
    with pytest.raises(UserError, match="--key must have 64 hex digits"):
        publish_handover("main", result, "../main", git("rev-parse", "HEAD"))
    assert git("branch", "--list", "retrain/*", cwd=remote) == ""
