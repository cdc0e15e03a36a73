"""The files that are no Python have linters too."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAMS = Path(sys.executable).parent
MADE_BY_MACHINE = "pipeline/trm.yaml"


def lint(*command: str | Path) -> None:
    """The linter reports no errors."""
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_dockerfile() -> None:
    lint(PROGRAMS / "hadolint", "Dockerfile")


def test_yaml() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.yaml", "*.yml"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "params.yaml" in listed
    lint(PROGRAMS / "yamllint", "--strict", *(name for name in listed if name != MADE_BY_MACHINE))
