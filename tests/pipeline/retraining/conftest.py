"""The fixtures of repositories with results."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dvc_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `dvc init`, and a remote `store` next to the folder."""
    folder = tmp_path_factory.mktemp("dvc") / "clone"
    subprocess.run(["git", "init", "-q", folder], check=True)
    dvc = Path(sys.executable).parent / "dvc"
    for words in (("init", "-q"), ("remote", "add", "-q", "-d", "store", "../store")):
        subprocess.run([dvc, *words], cwd=folder, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, check=True)
    shutil.rmtree(folder / ".git")
    return folder
