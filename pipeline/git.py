"""Git commands."""

import os
import subprocess
from collections.abc import Iterable, Mapping

from trm.utils.errors import UserError

REMOTE = "origin"
MAIN = f"{REMOTE}/main"
RESULT_FILES = ("dvc.lock", "metrics.json", "runs.tsv")
"""Tracked files that a collected result changes, and that its pull request contains."""


def git(*arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run git and return its stdout without the last line break. Raises `UserError` with git's message if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError:
        raise UserError("git is not installed; install it") from None
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split())[:300]
        raise UserError(f"git {arguments[0]} failed ({message}); resolve the cause and run the command again")
    return done.stdout.rstrip("\n")


def branch_name(key: str) -> str:
    """Return the branch of the result with this content key."""
    return f"retrain/{key[:12]}"


def head_commit() -> str:
    """Return the commit that is checked out; "" without a commit.

    The suffix `-dirty` marks changes in tracked files other than `RESULT_FILES`.
    """
    try:
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        return f"{commit}-dirty" if _has_changes(ignored=RESULT_FILES) else commit
    except UserError:
        return ""


def is_ancestor(commit: str, of: str) -> bool:
    """Return True if `commit` (40 hex digits) is part of the history of the revision `of`."""
    try:
        git("merge-base", "--is-ancestor", commit, of)
    except UserError:
        return False
    return True


def _has_changes(ignored: Iterable[str]) -> bool:
    lines = git("status", "--porcelain", "--untracked-files=no").splitlines()
    return any(line[3:].strip('"') not in ignored for line in lines)
