"""Mutation test: break one line at a time in a copy of the checkout, and check that its tests fail.

    python scripts/mutants.py [NAME-PART ...]

Mutants and their tests are listed in scripts/mutants.toml. A mutant whose tests pass is printed as SURVIVED, and the
exit code is then 1. Not part of `make test`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """A file in which `old` occurs exactly once and is replaced by `new`, and the tests that must fail."""

    file: str
    old: str
    new: str
    tests: str


def load_mutants() -> list[Mutant]:
    """The mutants of scripts/mutants.toml."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return [Mutant(**each) for each in tomllib.loads(text)["mutant"]]


def main() -> None:
    """Run the mutants named on the command line, or all."""
    chosen = [each for each in load_mutants() if not sys.argv[1:] or any(part in each.file for part in sys.argv[1:])]
    survived = 0
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "copy"
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")[:-1]
        for file in files:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
        for number, mutant in enumerate(chosen, 1):
            caught = is_caught(mutant, copy)
            survived += not caught
            verdict = "caught  " if caught else "SURVIVED"
            print(f"{number:3} of {len(chosen)} {verdict} {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    sys.exit(survived > 0)


def is_caught(mutant: Mutant, copy: Path) -> bool:
    """Whether the tests fail with the mutant. Raises `SystemExit` if its line is not in the file exactly once."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.file}: contains {mutant.old!r} {text.count(mutant.old)} times; correct the list")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    tests = [test for test in mutant.tests.split() if (copy / test).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, check=False, capture_output=True)
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):
        sys.exit(f"{mutant.file}: pytest ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    main()
