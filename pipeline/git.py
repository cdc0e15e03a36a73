"""What the pipeline asks of git."""

import os
import subprocess
from collections.abc import Iterable, Mapping

from trm.utils.errors import UserError

RESULTS = ("dvc.lock", "metrics.json", "runs.tsv")
"""The tracked files that a result changes, and that a pull request brings."""


def git(*arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What git prints, without the last line break. Raises `UserError` in git's own words where it fails."""
    try:
        ended = subprocess.run(
            ["git", *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError:
        raise UserError("git is not installed here; install it") from None
    if ended.returncode:
        said = " ".join((ended.stderr or ended.stdout).split())[:300]
        raise UserError(f"git {arguments[0]} failed ({said}); mend it and run the command again")
    return ended.stdout.rstrip("\n")


def head() -> str:
    """The commit that is checked out, with `-dirty` behind it where tracked files but the results differ; empty where
    there is no commit.
    """
    try:
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        return f"{commit}-dirty" if _changed(RESULTS) else commit
    except UserError:
        return ""


def _changed(but: Iterable[str]) -> bool:
    lines = git("status", "--porcelain", "--untracked-files=no").splitlines()
    return any(line[3:].strip('"') not in but for line in lines)
