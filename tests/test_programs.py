"""The programs beside the package: benchmarks and the list of mutants."""

import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_describes_itself(name: str) -> None:
    """`--help` prints the description and measures nothing."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


def test_mutants_name_lines_and_tests() -> None:
    """Each mutant changes one line of today's code, and its tests exist."""
    mutants = tomllib.loads((ROOT / "scripts/mutants.toml").read_text())["mutant"]
    assert len(mutants) >= 40
    for mutant in mutants:
        assert (ROOT / mutant["file"]).read_text().count(mutant["old"]) == 1, mutant
        assert mutant["new"] != mutant["old"]
        assert all((ROOT / test).exists() for test in mutant["tests"].split()), mutant
