"""Commands whose output is closed by its reader: no traceback, and no lost computation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.params import TINY, params_text
from trm.storage.artifacts import read_manifest


def run_closed(*command: str, closed: str = "stdout", cwd: Path = ROOT) -> tuple[int, str]:
    """Run a command whose stdout, or both streams, have no reader; return its exit code and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    both = closed == "both"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, *command],
            check=False,
            cwd=cwd,
            env=environment,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize(
    "command",
    [("recipe", "list"), ("recipe", "show", "sudoku-6x6"), ("model-summary",), ("--help",), ("--version",)],
    ids=" ".join,
)
def test_command_with_closed_stdout_ends_quietly(command: tuple[str, ...]) -> None:
    assert run_closed("-m", "trm", *command) == (0, "")


def test_pipeline_command_with_closed_stdout_ends_quietly() -> None:
    assert run_closed("-m", "pipeline", "train-job", "--help") == (0, "")


@pytest.mark.parametrize("closed", ["stdout", "both"])
def test_exit_code_of_an_error_is_kept(closed: str) -> None:
    code, stderr = run_closed("-m", "trm", "recipe", "show", "nosuch", closed=closed)
    assert code == 2
    assert stderr.count("\n") == (closed == "stdout")


def test_component_with_closed_output_keeps_its_exit_code(tmp_path: Path) -> None:
    outputs = '{"inputs": {}, "outputs": {}}'
    command = ("-m", "components.run", outputs, str(tmp_path / "raw"), "fetch", "--params", "no.yaml", "--raw", "x")
    assert run_closed(*command, closed="both") == (2, "")


def test_stages_complete_with_closed_output(tmp_path: Path) -> None:
    """Also a training, which prints its progress."""
    (tmp_path / "params.yaml").write_text(params_text(TINY))
    for stage in ("fetch", "augment", "train"):
        assert run_closed("-m", "trm", stage, closed="both", cwd=tmp_path) == (0, "")
    assert read_manifest(tmp_path / "outputs/model", "train")["facts"]["steps"] > 0


def test_training_survives_a_reader_that_leaves(tmp_path: Path) -> None:
    """`trm train 2>&1 | head -1`."""
    (tmp_path / "params.yaml").write_text(params_text(TINY))
    for stage in ("fetch", "augment"):
        assert run_closed("-m", "trm", stage, closed="both", cwd=tmp_path) == (0, "")
    code = "import trm.utils.progress as p; p.PLAIN_LINE_INTERVAL = 0; from trm.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "train"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        deadline = time.monotonic() + 120
        while process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert process.returncode == 0
    assert read_manifest(tmp_path / "outputs/model", "train")
