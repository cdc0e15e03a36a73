"""The start of the process: signals during the imports, closed streams, the length of messages."""

import subprocess
import sys

import pytest

from tests.cli.helpers import Run
from trm.utils.file_formats import shorten

INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupting(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "trm.cli.main":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Interrupting())
from {package}.__main__ import main
main()
"""


@pytest.mark.parametrize("package", ["trm", "pipeline"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_during_the_imports(package: str, name: str, code: int) -> None:
    program = INTERRUPTED.replace("{name}", name).replace("{package}", package)
    command = [sys.executable, "-c", program, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m trm recipe list {closed}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("sudoku-6x6" in ended.stdout) == (closed == "2>&-")


def test_messages_are_bounded(run: Run) -> None:
    code, _, err = run("fetch", "--set", f"data.name={'x' * 5000}end")
    assert code == 2
    assert err.startswith("trm: params.yaml with --set: data.name must be one of arc, ")
    assert " … " in err
    assert "restore its folder in trm/datasets" in err
    assert len(err) < 1010


def test_shorten() -> None:
    assert shorten("a" * 12, 12) == "a" * 12
    assert shorten("abcdefghijklm", 12) == "abcdefgh … jklm"
