"""The result that was collected last as a pull request: dvc.lock, metrics.json and runs.tsv on a branch of their own.

Nothing of the workspace is touched: the commit is made beside it. The same result gives the same commit, so that to
publish again changes nothing.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.dvc import dvc
from pipeline.git import RESULTS, git
from pipeline.results import collected
from pipeline.retraining.report import percent
from trm.errors import UserError

REMOTE = "origin"


def publish(base: str, report: Path | None) -> str:
    """Push the outputs to DVC's remote and the three files to a branch, and open or update its pull request with the
    text of `report`; what to look at. Raises `UserError` where nothing was collected.
    """
    key, metrics = collected()
    body = _body(key, metrics, report)
    branch, title = f"retrain/{key[:12]}", f"Result {key[:12]}: exact accuracy {percent(metrics.get('exact_accuracy'))}"
    dvc("push", "--quiet")
    git("push", "--quiet", "--force", REMOTE, f"{_commit(title)}:refs/heads/{branch}")
    if not os.environ.get("GITHUB_TOKEN"):
        print("GITHUB_TOKEN is not set: the branch is pushed, and there is no pull request", file=sys.stderr)
        return branch
    from pipeline.github import Repository

    address, state = Repository().pull_request(branch, base, title, body)
    if state != "open":
        print(f"the pull request is {state}, and stays so", file=sys.stderr)
    return address


def _body(key: str, metrics: dict[str, float | None], report: Path | None) -> str:
    if report is None:
        told = f"Exact accuracy {percent(metrics.get('exact_accuracy'))} on the test puzzles, compared with nothing."
    elif report.is_file():
        told = report.read_text(encoding="utf-8")
    else:
        raise UserError(f"{report}: is not there; `python -m pipeline compare` writes it")
    return f"{told}\n\nContent key `{key}`. To merge is to publish: `dvc pull` then brings these outputs.\n"


def _commit(message: str) -> str:
    """A commit on top of HEAD that changes the three files alone, with HEAD's own date."""
    date = git("show", "--no-patch", "--format=%cI", "HEAD")
    with TemporaryDirectory() as folder:
        own = {"GIT_INDEX_FILE": f"{folder}/index"}
        git("read-tree", "HEAD", env=own)
        git("add", "--force", "--", *RESULTS, env=own)
        tree = git("write-tree", env=own)
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    return git("commit-tree", tree, "-p", "HEAD", "-m", message, env=dates)
