"""Bringing a run's outputs home, so that the next `dvc repro` has nothing left to do."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.dvc import DVC_YAML, LOCK, dvc, unlike
from pipeline.git import head
from pipeline.kfp.client import Run
from pipeline.kfp.definition import key_parameter
from pipeline.results import EVALUATE, METRICS
from pipeline.runs import OUTPUTS, Origin, add_runs, read_runs
from trm import s3
from trm.artifacts import MANIFEST, read_manifest, write_json
from trm.config import Params
from trm.errors import UserError
from trm.files import file_digest
from trm.stages import STAGES, TIMING, Stage, requests, timing_file


def collect(params: Params, run: Run | None, origin: Origin | None = None) -> dict[str, str]:
    """Bring every stage's output to `outputs/`, commit it to DVC, and write metrics.json and runs.tsv; returns
    stage -> URI.

    `run` None: what lies below `cluster.root` under the workspace's own keys, which came from `origin`. Before anything
    is written, every key is made again from the workspace: raises `UserError`, naming the param or module, where one
    differs, and where an output is not there; `Fault` where DVC fails.
    """
    if not DVC_YAML.is_file():
        raise UserError("dvc.yaml is not here; run this in the folder that holds params.yaml and dvc.yaml")
    wanted = requests(params)
    names = [key_parameter(stage) for stage in STAGES]
    if run and not all(isinstance(run.arguments.get(name), str) for name in ("root", *names)):
        raise UserError(f"run {run.id} is no run of this pipeline; give an id that `submit` printed")
    root = str(run.arguments["root"]) if run else params.cluster.root
    uris: dict[str, str] = {}
    for stage in STAGES:
        key = str(run.arguments[key_parameter(stage)]) if run else wanted[stage.name]["key"]
        uris[stage.name] = f"{root}/{stage.name}/{key}"
        manifest = s3.read_manifest(uris[stage.name])
        if key != wanted[stage.name]["key"]:
            raise UserError(f"{_difference(stage, manifest, run, wanted[stage.name])}; nothing was written")
        if manifest is None:
            state = f" (the run: {run.state.lower()})" if run else ""
            raise UserError(f"{uris[stage.name]}: there is no such artifact{state}; nothing was written")
    stages = [stage.name for stage in STAGES]
    read_runs()
    dvc("stage", "list", *stages)  # what cannot be read is told before anything is brought
    commit = head()
    for stage in STAGES:
        _bring(stage, uris[stage.name])
    dvc("commit", "--force", *stages)
    dvc("status", "--quiet", *stages)
    metrics = json.loads((OUTPUTS / EVALUATE.output / "metrics.json").read_text(encoding="utf-8"))
    write_json(METRICS, {"keys": {name: uri.rpartition("/")[2] for name, uri in uris.items()}, "metrics": metrics})
    origin = origin or (Origin(run=run.id, image=run.image) if run else Origin())
    add_runs(replace(origin, commit=commit, dvc_lock=file_digest(LOCK)))
    return uris


def _difference(stage: Stage, manifest: Mapping[str, Any] | None, run: Run | None, wanted: Mapping[str, Any]) -> str:
    """What keeps a run's key from being the workspace's, in words."""
    theirs: Mapping[str, Any] = manifest or {}
    if not theirs and run:
        theirs = {"params": {section: run.arguments.get(section) for section in stage.sections}}
    for part in ("params", "source", "modules", "versions"):
        for name, here, there in unlike(wanted.get(part, {}), theirs.get(part, wanted.get(part, {}))):
            if part == "modules":
                return f"{name} differs from the file that stage {stage.name} of the run used; check out its commit"
            remedy = "correct params.yaml" if part == "params" else "make it the same here"
            return f"{name} is {here!r} here and was {there!r} in the run; {remedy}, or collect another run"
    return f"stage {stage.name} of the run has another key; its code or libraries are not those of this workspace"


def _bring(stage: Stage, uri: str) -> None:
    folder = OUTPUTS / stage.output
    if not ((folder / MANIFEST).is_file() and read_manifest(folder) == s3.read_manifest(uri)):
        s3.bring(uri, folder)
    timing = s3.get_json(f"{uri}/{TIMING}")
    if timing is None:
        timing_file(folder).unlink(missing_ok=True)  # it would be another run's
    else:
        write_json(timing_file(folder), timing)
