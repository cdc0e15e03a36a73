"""Training and inference on `cuda`, with a stand-in for the GPU; stand_in.cpp names what it does not show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.stand_in import FORCED, build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = build(tmp_path_factory.mktemp("library"))
    if found is None:
        pytest.skip("needs Linux and a C++ compiler")
    return found


def _run_tests(library: Path, folder: Path, *options: str, **environment: str) -> None:
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'temporary'}", *options)
    command = [sys.executable, "-m", "tests.gpu.stand_in", str(library), "pytest", *options]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_a_gpu(library: Path, tmp_path: Path) -> None:
    _run_tests(library, tmp_path, "tests/gpu/checks.py")


def test_interruptions_and_skipped_batches_on_a_gpu(library: Path, tmp_path: Path) -> None:
    """Tests of the trainer, with `cuda` in place of `cpu`."""
    files = ("tests/training/test_trainer.py", "tests/training/test_rollback.py")
    chosen = ("-m", "not slow", "-k", "resumed_run or non_finite or without_these_steps")
    _run_tests(library, tmp_path, *files, *chosen, **{FORCED: "1"})
