"""Pull request with the result that was collected last: dvc.lock, metrics.json and runs.tsv on a branch.

The commit is created without changing the workspace. Equal results give equal commits: publishing again has no effect.
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.dvc import dvc
from pipeline.git import MAIN, REMOTE, RESULT_FILES, branch_name, git, is_ancestor
from pipeline.github import Repository, push_credentials
from pipeline.results import METRICS_FILE, format_percent, read_collected
from pipeline.retraining.handover import REPORT, check_handover
from trm.utils.errors import UserError


def publish(base: str, report: Path | None) -> str:
    """Push the outputs to the DVC remote, and the result files to a branch with a pull request.

    Raises `UserError` if no result was collected.

    Args:
        base: Target branch of the pull request.
        report: Markdown file with the body of the pull request, as `compare` writes it.

    Returns:
        The URL of the pull request, or the branch if GITHUB_TOKEN is not set.
    """
    key, metrics = read_collected()
    body = _body(key, metrics, report)
    dvc("push", "--quiet")
    return _publish(base, key, metrics, body, Path(), "HEAD")


def publish_handover(base: str, folder: Path, key: str, commit: str) -> str:
    """Push the result files in `folder`, which another job wrote, to a branch with a pull request.

    That job has pushed the outputs to the DVC remote. Raises `DataError` for other files than those of the result, and
    `UserError` for a commit outside of the main branch.

    Args:
        base: Target branch of the pull request.
        folder: Folder with dvc.lock, metrics.json, runs.tsv and, except for the first result, outputs/comparison.md.
        key: Content key of stage evaluate.
        commit: Commit that the run was submitted from, 40 hex digits.

    Returns:
        The URL of the pull request, or the branch if GITHUB_TOKEN is not set.
    """
    if not re.fullmatch("[0-9a-f]{64}", key) or not re.fullmatch("[0-9a-f]{40}", commit):
        raise UserError("--key must have 64 hex digits, --commit 40; pass those of `list-uncollected`")
    if not is_ancestor(commit, MAIN):
        raise UserError(f"--commit: {commit} is not part of {MAIN}; `list-uncollected` lists the runs to publish")
    check_handover(folder, key)
    _, metrics = read_collected(folder / METRICS_FILE)
    report = folder / REPORT
    # An invisible character keeps the text from mentioning users.
    body = _body(key, metrics, report if report.is_file() else None).replace("@", "@\u2060")
    return _publish(base, key, metrics, body, folder, commit)


def _publish(base: str, key: str, metrics: dict[str, float | None], body: str, folder: Path, parent: str) -> str:
    """Push a branch with the result files of `folder` on top of `parent`; create or update its pull request."""
    accuracy = format_percent(metrics.get("exact_accuracy"))
    branch, title = branch_name(key), f"Result {key[:12]}: exact accuracy {accuracy}"
    commit = _commit(title, folder, parent)
    git("push", "--quiet", "--force", REMOTE, f"{commit}:refs/heads/{branch}", env=push_credentials())
    if not os.environ.get("GITHUB_TOKEN"):
        print(f"GITHUB_TOKEN is not set: branch {branch} is pushed without a pull request", file=sys.stderr)
        return branch
    url, state = Repository().upsert_pull_request(branch, base, title, body)
    if state != "open":
        print(f"the pull request is {state} and is not reopened", file=sys.stderr)
    return url


def _body(key: str, metrics: dict[str, float | None], report: Path | None) -> str:
    if report is None:
        text = (
            f"Exact accuracy {format_percent(metrics.get('exact_accuracy'))} on the test puzzles, without comparison."
        )
    elif report.is_file():
        text = report.read_text(encoding="utf-8")
    else:
        raise UserError(f"{report}: no such file; run `python -m pipeline compare` to write it")
    return f"{text}\n\nContent key `{key}`. Merge to publish: `dvc pull` then downloads these outputs.\n"


def _commit(message: str, folder: Path, parent: str) -> str:
    """Create a commit on top of `parent` that changes the result files only, with its date; return the new id."""
    date = git("show", "--no-patch", "--format=%cI", parent)
    with TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index"}
        git("read-tree", parent, env=index)
        for name in RESULT_FILES:
            content = git("hash-object", "-w", "--", str(folder / name))
            git("update-index", "--add", "--cacheinfo", f"100644,{content},{name}", env=index)
        tree = git("write-tree", env=index)
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    return git("commit-tree", tree, "-p", parent, "-m", message, env=dates)
