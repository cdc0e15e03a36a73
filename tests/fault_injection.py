"""Runs commands of `trm` in which one call of the operating system fails, and checks what they leave.

    LD_PRELOAD=faults.so python -m tests.fault_injection FOLDER [--every N] [--only rename] [--existing]
        [--command NAME ...]

`tests/faults.c` makes the n-th call that opens, reads, writes, flushes, renames, links, creates or deletes a file below
the folder fail, once for each n. A run with a failed call must end with one line and leave its output absent or whole;
the same command without a fault must then give the bytes of a run without faults. With `--existing` the output exists
before, with other contents, and must have either the old or the new ones. Prints the violations as JSON.
"""

import argparse
import contextlib
import ctypes
import errno
import io
import json
import os
import re
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.params import TINY, params_text

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE]
COMMANDS = {
    "recipe": ["recipe", "use", "maze-small", "--force"],
    "init": ["init"],
    "fetch": ["fetch"],
    "augment": ["augment"],
    "train": ["train"],
    "evaluate": ["evaluate"],
    "report": ["report"],
    "sweep": ["sweep", "--max-steps", "1,2", "--num-samples", "1", "--latent-noise-std", ""],
    "compare": ["compare", "outputs/evaluation", "outputs/evaluation"],
    "export": ["checkpoint", "export"],
    "import": ["checkpoint", "import", "outputs/published/step_10", "--dataset", "outputs/dataset"],
    "verify": ["verify", "outputs"],
    "inspect": ["inspect", "outputs/dataset"],
    "solve": ["solve", "puzzles.txt"],
}
"""Name -> arguments, in the order in which they use the outputs of each other."""
OTHERS = {
    "recipe": ["recipe", "use", "sudoku-4x4", "--force"],
    "fetch": ["fetch", "--set", "data.source.seed=1"],
    "augment": ["augment", "--set", "augment.seed=1"],
    "train": ["train", "--set", "train.seed=1"],
    "evaluate": ["evaluate", "--set", "evaluate.seed=1"],
    "report": ["report", "--set", "report.seed=1"],
}
"""Name -> arguments that write another output to the same place."""
VARIES = re.compile(r"\.lock$|timing\.json$|^states/|^cache/")
"""Paths of files that differ between runs, by their durations for example."""


def run(arguments: list[str]) -> tuple[int, str]:
    """Run `trm` in this process; returns exit code and stderr."""
    from trm.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["trm", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), err.getvalue()
        except BaseException as error:  # what no command may raise
            return 99, f"{err.getvalue()}Traceback: {type(error).__name__}: {error}"
    return 0, err.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files whose contents do not vary."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not VARIES.search(str(path.relative_to(folder)))
    }


def copy(source: Path, target: Path) -> None:
    """Replace the contents of `target` by those of `source`; the folder itself stays, since it is the current one."""
    for path in target.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)


class Injection:
    """A folder in which commands run, and the library that makes calls fail."""

    def __init__(self, folder: Path, function: str = "", existing: bool = False) -> None:
        """function: the function that fails; empty: all of them. existing: the output exists before."""
        self.function, self.existing = function, existing
        self.work, self.before = folder / "work", folder / "before"
        self.library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.library.faults_failed.restype = ctypes.c_char_p
        self.problems: list[dict[str, Any]] = []
        self.runs: Counter[str] = Counter()

    def run(self, arguments: list[str], number: int, error: int) -> tuple[int, str, int, str]:
        """Run a command whose call `number` fails (0: none): exit code, stderr, number of calls, the failed call."""
        self.library.faults_arm(str(self.work).encode(), self.function.encode(), number, error)
        try:
            code, err = run(arguments)
        finally:
            calls = self.library.faults_disarm()
        return code, err, calls, self.library.faults_failed().decode(errors="replace")

    def check(self, name: str, every: int) -> None:
        """All runs of a command. Afterwards its output is that without a fault."""
        arguments = COMMANDS[name]
        if self.existing:
            code, err = run(OTHERS[name])
            assert code == 0, f"{name}: {err}"
        shutil.rmtree(self.before, ignore_errors=True)
        shutil.copytree(self.work, self.before)
        code, err, calls, _ = self.run(arguments, 0, 0)
        assert code in (0, 3), f"{name}: {err}"
        expected, started = contents(self.work), contents(self.before)
        for number in range(1, calls + 1, every):
            copy(self.before, self.work)
            error = ERRORS[number // every % len(ERRORS)]
            code, err, _, failed = self.run(arguments, number, error)
            self.runs[name] += 1
            found = self.faults_of(code, err, started, expected)
            again, err_again = run(arguments)
            after = contents(self.work)
            if again not in (0, 3):
                found["again"] = err_again[-400:]
            elif after != expected:
                found["differs"] = sorted(path for path in {*after, *expected} if after.get(path) != expected.get(path))
            if found:
                call = {"command": name, "call": failed.replace(str(self.work), "."), "error": errno.errorcode[error]}
                self.problems.append(call | {"code": code} | found)
        copy(self.before, self.work)
        assert run(arguments)[0] in (0, 3)

    def faults_of(self, code: int, err: str, started: dict[str, bytes], expected: dict[str, bytes]) -> dict[str, Any]:
        """What is wrong after a run with a failed call."""
        found: dict[str, Any] = {}
        lines = [line for line in err.splitlines() if " done in " not in line and "warning" not in line]
        if code not in (0, 1, 2, 3):
            found["exit code"] = err[-600:]
        elif code in (1, 2) and (len(lines) > 1 or "fault of the program" in err or "Traceback" in err):
            found["message"] = err[-600:]
        now = contents(self.work)
        for path in now.keys() | started.keys():
            hidden = any(part.startswith(".") for part in Path(path).parts)
            if now.get(path) not in (started.get(path), expected.get(path)) and not hidden:
                found.setdefault("half-written", []).append(path)
        different = {path for path in {*started, *expected} if started.get(path) != expected.get(path)}
        kept = {path for path in different if now.get(path) == started.get(path)}
        if self.existing and kept not in (set(), different):
            found["mixed"] = sorted(kept)
        whole = {path.parent for path in map(Path, now) if path.name == "manifest.json"}
        for folder in whole:
            files = {path for path in expected if Path(path).parent == folder}
            if files and not files <= now.keys() and not any(part.startswith(".") for part in folder.parts):
                found.setdefault("incomplete", []).append(str(folder))
        return found


def main() -> None:
    """Run all commands and print the violations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="only each N-th call fails [1]")
    parser.add_argument("--only", default="", help="only calls of this function fail, such as rename")
    parser.add_argument("--existing", action="store_true", help="the output exists before")
    parser.add_argument("--command", choices=COMMANDS, action="append", help="only this command fails; several")
    options = parser.parse_args()
    work = options.folder.resolve() / "work"
    work.mkdir(parents=True)
    os.chdir(work)
    os.environ.update({"TRM_STATE_DIR": str(work / "states"), "TRM_CACHE_DIR": str(work / "cache"), "NO_COLOR": "1"})
    warnings.simplefilter("ignore")
    (work / "params.yaml").write_text(params_text(TINY), encoding="utf-8")
    (work / "puzzles.txt").write_text("1.3...122.4....1\n", encoding="utf-8")
    injection = Injection(options.folder.resolve(), options.only, options.existing)
    chosen = set(options.command or COMMANDS) & set(OTHERS if options.existing else COMMANDS)
    for name, arguments in COMMANDS.items():
        if name == "init":
            (work / "params.yaml").unlink()
        if name in chosen:
            injection.check(name, options.every)
        else:
            code, err = run(arguments)
            assert code in (0, 3), f"{name}: {err}"
        if name in ("recipe", "init"):
            (work / "params.yaml").write_text(params_text(TINY), encoding="utf-8")
    print(json.dumps({"runs": injection.runs, "problems": injection.problems}, indent=1))


if __name__ == "__main__":
    main()
