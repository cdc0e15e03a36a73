"""Clones of this repository with a tiny experiment, in which commands are typed as a person would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.helpers import TINY
from tests.conftest import ROOT


class Clone:
    """A git repository of its own with this one's files and a tiny experiment."""

    def __init__(self, folder: Path, states: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        unset = ("PYTHONPATH", "OMP_NUM_THREADS", "GIT_DIR", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {"PATH": path, "TRM_STATE_DIR": str(states), "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"}
        identity = {"NAME": "a tester", "EMAIL": "tester@example.org"}
        for role in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{role}_{key}": value for key, value in identity.items()}

    def run(self, command: str, code: int = 0) -> str:
        """Run a line of shell; its stdout."""
        done = self.start(command)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell to its end, however it ends."""
        shell = ["bash", "-c", command]
        return subprocess.run(
            shell, check=False, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900
        )

    def ran(self, command: str) -> list[str]:
        """The stages that a DVC command really ran."""
        return re.findall(r"Running stage '(\w+)'", self.run(command))


def make_clone(base: Path) -> Clone:
    """A clone with this working tree's tracked files and a tiny `params.yaml`, all committed."""
    clone = Clone(base / "clone", base / "states")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        target = clone.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    _share_installation(clone.folder / ".venv")
    params = (clone.folder / "params.yaml").read_text()
    for old, new in {**TINY, "device: auto": "device: cpu"}.items():
        params = re.sub(old, new, params)
    (clone.folder / "params.yaml").write_text(params)
    (clone.folder / "dvc.lock").unlink(missing_ok=True)
    clone.run("git init -q -b main && git add -A && git commit -qm 'a clone'")
    return clone


def _share_installation(venv: Path) -> None:
    """What is installed for the tests, with a stamp of its own: `make` in a clone must install nothing there."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name not in (".ready", ".unfinished"):
            (venv / part.name).symlink_to(part)
    (venv / ".ready").touch()
