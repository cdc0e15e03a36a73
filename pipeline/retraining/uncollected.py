"""List of the runs that were not collected. A workflow runs it often: the module imports no library of the stages."""

import re
import sys

from components.parameters import PIPELINE, key_parameter
from pipeline.git import MAIN, REMOTE, branch_name, git, is_ancestor
from pipeline.kfp.client import CONTENT_KEY, FAILED_STATES, RUN_ID, KfpClient
from pipeline.results import EVALUATE
from pipeline.runs import read_runs
from trm.config.cluster import ClusterParams


def list_uncollected(cluster: ClusterParams) -> list[dict[str, str]]:
    """Return run id, content key and commit of each succeeded run whose result was not collected.

    A workflow checks out the commit and runs it. Everybody who may submit runs can write any text into a run, so that
    only commits of the main branch, and keys and ids of the right form, are returned. Prints a line for each other run,
    and for each failed or stopped run without a later attempt.
    """
    collected = {record.key for record in read_runs() if record.stage == EVALUATE.name}
    branches = git("ls-remote", "--heads", REMOTE, branch_name("*"))
    uncollected: list[dict[str, str]] = []
    seen: set[str] = set()
    for run in KfpClient(cluster).list_runs(PIPELINE):
        key = run.arguments.get(key_parameter(EVALUATE))
        if not isinstance(key, str) or not re.fullmatch(CONTENT_KEY, key) or not re.fullmatch(RUN_ID, run.id):
            continue
        if key in seen or key in collected or branch_name(key) in branches:
            continue
        if run.arguments.get("artifact_root", cluster.artifact_root) != cluster.artifact_root:
            continue  # artifacts of another experiment, or of another user
        seen.add(key)
        if run.state in FAILED_STATES:
            remedy = "not collected, the champion is unchanged; `python -m pipeline submit` starts a new run"
            print(f"run {run.id} {run.state.lower()}: {remedy}", file=sys.stderr)
        elif run.state == "SUCCEEDED" and (problem := _untrusted_commit(run.commit)):
            print(f"run {run.id}: {problem}; collect it manually", file=sys.stderr)
        elif run.state == "SUCCEEDED":
            uncollected.append({"run": run.id, "key": key, "commit": run.commit})
    return uncollected


def _untrusted_commit(commit: str) -> str:
    """Return why a workflow must not run this commit; "" if it may."""
    if not commit or commit.endswith("-dirty"):
        return "submitted with uncommitted changes"
    if not is_ancestor(commit, MAIN):
        return f"submitted from commit {commit}, which is not part of {MAIN}"
    return ""
