"""The files that are no Python have linters too."""

import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.conftest import ROOT

PROGRAMS = Path(sys.executable).parent
MADE_BY_MACHINE = "pipeline/trm.yaml"


def lint(*command: str | Path) -> None:
    """The linter reports no errors."""
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_dockerfile() -> None:
    lint(PROGRAMS / "hadolint", "Dockerfile")


def test_spelling() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    lint(PROGRAMS / "codespell", *names.splitlines())


def test_pre_commit_runs_the_pinned_versions() -> None:
    hooks = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pins = dict(line.split("==", 1) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    revisions = {hook["repo"].rpartition("/")[2].removesuffix("-pre-commit"): hook.get("rev") for hook in hooks}
    for name in ("ruff", "yamllint", "codespell"):
        assert revisions[name] == f"v{pins[name]}", name


def test_yaml() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "params.yaml" in listed
    lint(PROGRAMS / "yamllint", "--strict", *(name for name in listed if name != MADE_BY_MACHINE))
