"""The wheel in a clean environment: its list of dependencies, its data files, and the first commands of a user."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import ROOT
from tests.params import TINY
from tests.puzzle_generators import write_puzzles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
MODEL = ("model.hidden_size", "model.num_heads", "train.epochs", "train.device", "report.num_examples")
"""Changes that make the training of suggested settings tiny."""
UNREACHABLE = ("No matching distribution found", "Temporary failure in name resolution", "Connection")


def pip(*arguments: object) -> None:
    """Run pip with the pinned versions; skip the test if no index has the packages."""
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_NO_INPUT": "1"}
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """The programs of an environment that contains the wheel and its dependencies only."""
    with TemporaryDirectory() as folder:  # about 2 GB: deleted at once
        pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
        (wheel,) = Path(folder).glob("trm-*.whl")
        venv.create(Path(folder) / "venv")
        programs = Path(folder) / "venv/bin"
        pip("--python", programs / "python", "install", "--no-compile", wheel)  # most modules are never imported
        yield programs


def test_first_commands(installed: Path, tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    environment = {"HOME": str(home), "PATH": f"{installed}:/usr/bin:/bin"}

    def trm(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / "trm"), *arguments]
        return subprocess.run(command, check=False, cwd=here, env=environment, capture_output=True, text=True)

    assert re.fullmatch(r"trm \d+\.\d+\.\d+\n", trm("--version").stdout)
    done = trm("init")
    assert (done.returncode, done.stdout) == (0, "params.yaml is recipe sudoku-6x6; `trm run` runs it\n")
    done = trm("solve", "--model", "demo", ".6..2........5.......3.1...43.42...6")
    assert done.returncode in (0, 3), done.stderr
    assert "halt probability" in done.stdout
    done = trm("demo", "--max-steps", "1", "--seed", "1")
    assert done.returncode == 0, done.stderr
    changes = {key: "null" if value is None else str(value).lower() for key, value in TINY.items()}
    settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    done = trm("run", *settings)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (here / "outputs").iterdir() if path.is_dir()} == {
        *("raw", "dataset", "model", "evaluation", "report")
    }
    assert "Traceback" not in done.stderr
    write_puzzles(here / "mine.csv", "mirror", 200)
    done = trm("recipe", "suggest", "mine.csv", "--out", "mine.yaml", "--minutes", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("mine.yaml is a suggestion for mine.csv; `trm run --params mine.yaml` runs it\n")
    done = trm("run", "--params", "mine.yaml", *(part for key in MODEL for part in ("--set", f"{key}={changes[key]}")))
    assert done.returncode == 0, done.stderr
    done = trm("ui", "outputs")
    assert (done.returncode, "pip install 'trm[serve]'" in done.stderr) == (2, True)
    (package,) = installed.parent.glob("lib/python*/site-packages/trm")
    for folder in ("ui/page", "exporting/page"):
        names = {path.name for path in (ROOT / "trm" / folder).iterdir()}
        assert names == {path.name for path in (package / folder).iterdir()}
    done = trm("new-dataset", "zoo")
    assert (done.returncode, "installed without its source" in done.stderr) == (2, True)
