"""Pull request with the result that was collected last: dvc.lock, metrics.json and runs.tsv on a branch.

The commit is created without changing the workspace. Equal results give equal commits: publishing again has no effect.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.dvc import dvc
from pipeline.git import RESULT_FILES, git
from pipeline.results import read_collected
from pipeline.retraining.report import format_percent
from trm.utils.errors import UserError

REMOTE = "origin"


def branch_name(key: str) -> str:
    """Return the branch of the result with this content key."""
    return f"retrain/{key[:12]}"


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
    accuracy = format_percent(metrics.get("exact_accuracy"))
    branch, title = branch_name(key), f"Result {key[:12]}: exact accuracy {accuracy}"
    dvc("push", "--quiet")
    git("push", "--quiet", "--force", REMOTE, f"{_commit(title)}:refs/heads/{branch}")
    if not os.environ.get("GITHUB_TOKEN"):
        print(f"GITHUB_TOKEN is not set: branch {branch} is pushed without a pull request", file=sys.stderr)
        return branch
    from pipeline.github import Repository

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


def _commit(message: str) -> str:
    """Create a commit on top of HEAD that changes the result files only, with HEAD's date; return its id."""
    date = git("show", "--no-patch", "--format=%cI", "HEAD")
    with TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", "HEAD", env=index)
        git("add", "--force", "--", *RESULT_FILES, env=index)
        tree = git("write-tree", env=index)
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    return git("commit-tree", tree, "-p", "HEAD", "-m", message, env=dates)
