"""The whole way of a change: plan, run, collect, compare, promote; and the runs that wait to be collected."""

import sys
from pathlib import Path

from rich.console import Console

from pipeline.git import git
from pipeline.kfp.collect import collect
from pipeline.results import EVALUATE, data_set_name, find_key, load_result
from pipeline.retraining.compare import Comparison
from pipeline.retraining.plan import make_plan
from pipeline.retraining.plan_text import show
from pipeline.retraining.publish import REMOTE
from pipeline.retraining.registry import Champion, Throne
from pipeline.retraining.report import write_report
from pipeline.runs import OUTPUTS, Origin, read_runs
from trm import s3
from trm.artifacts import MANIFEST, read_manifest
from trm.config import Params
from trm.errors import Fault, UserError
from trm.stages import STAGES, content_keys

REPORT = OUTPUTS / "comparison"
"""Stem of the report's files."""


def compute(params: Params, file: Path, image: str | None) -> None:
    """Plan, run and collect the experiment: on the cluster, or in Docker here where `image` is given. Raises `Fault`
    where the run did not succeed.
    """
    show(make_plan(params, file), Console(stderr=True))
    if image is not None:
        from pipeline.local.docker_runner import image_id, run_local

        run_local(params, image)
        collect(params, None, Origin(run="local", image=image_id(image)))
        return
    from pipeline.kfp.client import Kubeflow
    from pipeline.kfp.submit import submit
    from pipeline.kfp.watch import verdict, watch

    run, _ = submit(params, again=False)
    ended = watch(Kubeflow(params.cluster), run.id)
    if ended.state != "SUCCEEDED":
        raise Fault(f"{verdict(ended)}; the champion is as it was; start again, and what is done is not done again")
    collect(params, ended)


def promote(params: Params, name: str | None, anyway: bool) -> tuple[Champion, Comparison | None, bool]:
    """As `Throne.promote`, of the result that `name` means; a report of the comparison is written."""
    result = load_result(params.cluster.root, find_key(params, name))
    place = Throne(params.cluster.root, result.data_set)
    return place.promote(result, anyway, lambda comparison: write_report(comparison, REPORT))


def throne(params: Params, data_set: str | None) -> Throne:
    """The place of the champion of `data_set`, else of the workspace's. Raises `UserError` where its raw puzzles are
    not known.
    """
    if data_set is None:
        stage, key = STAGES[0], content_keys(params)[STAGES[0].name]
        folder, uri = OUTPUTS / stage.output, f"{params.cluster.root}/{stage.name}/{key}"
        here = read_manifest(folder, stage.name) if (folder / MANIFEST).is_file() else None
        manifest = here if here and here["key"] == key else s3.read_manifest(uri)
        if manifest is None:
            raise UserError(f"{uri}: the raw puzzles of params.yaml are not there yet, so it has no champion")
        data_set = data_set_name(manifest)
    return Throne(params.cluster.root, data_set)


def pending(params: Params) -> list[dict[str, str]]:
    """The runs that succeeded and whose results nobody has taken up: id, content key and commit of each. Of runs that
    failed or were stopped, and have no later try, a line is said.
    """
    from pipeline.kfp.client import FAILED, Kubeflow
    from pipeline.kfp.definition import NAME, key_parameter

    collected = {line.key for line in read_runs() if line.stage == EVALUATE.name}
    branches = git("ls-remote", "--heads", REMOTE, "retrain/*")
    waiting: list[dict[str, str]] = []
    seen: set[str] = set()
    for run in Kubeflow(params.cluster).all(NAME):
        key = run.arguments.get(key_parameter(EVALUATE))
        if not isinstance(key, str) or key in seen or key in collected or f"retrain/{key[:12]}" in branches:
            continue
        seen.add(key)
        if run.state in FAILED:
            remedy = "nothing is collected, the champion stays; `python -m pipeline submit` tries again"
            print(f"run {run.id} {run.state.lower()}: {remedy}", file=sys.stderr)
        elif run.state == "SUCCEEDED" and not run.commit.endswith("-dirty") and run.commit:
            waiting.append({"run": run.id, "key": key, "commit": run.commit})
        elif run.state == "SUCCEEDED":
            print(f"run {run.id}: was submitted from changes that no commit holds; collect it by hand", file=sys.stderr)
    return waiting
