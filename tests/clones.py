"""Clones of this repository with a tiny experiment, in which shell commands run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.params import TINY, edit_params
from tests.preload import programs


class Clone:
    """A separate git repository with the files of this one and a tiny experiment."""

    def __init__(self, folder: Path, states: Path) -> None:
        self.folder = folder
        path = os.pathsep.join(map(str, (*programs(), Path(sys.executable).parent, os.environ["PATH"])))
        unset = ("PYTHONPATH", "OMP_NUM_THREADS", "GIT_DIR", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {"PATH": path, "TRM_STATE_DIR": str(states), "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"}
        identity = {"NAME": "a tester", "EMAIL": "tester@example.org"}
        for role in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{role}_{key}": value for key, value in identity.items()}

    def run(self, command: str, code: int = 0) -> str:
        """Run a shell command, which must exit with `code`; returns its stdout."""
        done = self.start(command)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command to completion, whatever its exit code."""
        shell = ["bash", "-c", command]
        return subprocess.run(
            shell, check=False, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )

    def ran(self, command: str) -> list[str]:
        """Run a DVC command; returns the stages that it ran."""
        return re.findall(r"Running stage '(\w+)(?:@\w+)?'", self.run(command))


def make_clone(base: Path) -> Clone:
    """A clone with this working tree's tracked files and a tiny `params.yaml`, all committed."""
    clone = Clone(base / "clone", base / "states")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        target = clone.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    _share_installation(clone.folder / ".venv")
    edit_params(clone.folder / "params.yaml", TINY)
    (clone.folder / "dvc.lock").unlink(missing_ok=True)
    clone.run("git init -q -b main && git add -A && git commit -qm 'a clone'")
    return clone


def _share_installation(venv: Path) -> None:
    """Link the packages of the test environment; a separate stamp file prevents `make` from installing any."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name not in (".ready", ".unfinished"):
            (venv / part.name).symlink_to(part)
    (venv / ".ready").touch()
