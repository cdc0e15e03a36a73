"""Commands that read damaged or hostile files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fuzzing import FORMATS

FILES = 15
"""Mutated files of each format; `python -m tests.fuzzing FOLDER --count 10000` takes about two hours of one core."""


@pytest.mark.slow
def test_mutated_files_end_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzzing", str(tmp_path), "--count", str(FILES)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["first"] == []
    assert found["problems"] == dict.fromkeys(FORMATS, 0)
    assert found["grown_bytes"] < 2_000_000_000
