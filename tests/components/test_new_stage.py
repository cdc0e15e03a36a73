"""A new stage is a record, a function and a component folder: the shared modules need no edit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("check", ["pipeline", "entry_point", "summary", "records"])
def test_new_stage_record(tmp_path: Path, check: str) -> None:
    """In a process whose stage records include a new one."""
    code = f"from tests.components import new_stage; new_stage.add_stage(); new_stage.check_{check}()"
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
