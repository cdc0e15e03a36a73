"""Each command with calls of the operating system that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.c_libraries import shared_library
from tests.conftest import ROOT
from tests.fault_injection import COMMANDS, OTHERS

INTERVAL = 31
"""Every call of this number fails; `python -m tests.fault_injection` makes all of them fail."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/faults.c, compiled."""
    return shared_library(ROOT / "tests/faults.c", tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
def test_failed_calls_leave_nothing_half_written(library: Path, tmp_path: Path) -> None:
    """One line, the output absent or whole, and the right bytes when the command runs again."""
    found = inject(library, tmp_path, "--every", str(INTERVAL))
    assert found["problems"] == []
    assert found["runs"].keys() == COMMANDS.keys()
    assert sum(found["runs"].values()) > 40


@pytest.mark.slow
def test_failed_renames_keep_the_old_output(library: Path, tmp_path: Path) -> None:
    """Each command replaces an output by two renames; whichever fails, the output is the old or the new one."""
    found = inject(library, tmp_path, "--existing", "--only", "rename")
    assert found["problems"] == []
    assert found["runs"].keys() == OTHERS.keys()
    assert all(found["runs"][name] >= 2 for name in OTHERS if name != "recipe"), found["runs"]


def inject(library: Path, folder: Path, *options: str) -> dict[str, Any]:
    """The result of `python -m tests.fault_injection`."""
    command = [sys.executable, "-m", "tests.fault_injection", str(folder), *options]
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
