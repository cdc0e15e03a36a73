"""Download of a run's outputs into the workspace, after which `dvc repro` has nothing to do."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.parameters import key_parameter
from pipeline.dvc import LOCK, check_workspace, dvc
from pipeline.git import head_commit
from pipeline.kfp.client import CONTENT_KEY, Run
from pipeline.results import EVALUATE, METRICS_FILE
from pipeline.runs import OUTPUTS, Provenance, add_records, read_runs
from trm.config.base import differences
from trm.config.params import Params
from trm.stages.content_keys import requests
from trm.stages.records import REQUIRED_STAGES, Stage, enabled_stages
from trm.storage import s3
from trm.storage.artifacts import MANIFEST, TIMING, read_manifest, timing_file, write_json
from trm.utils.errors import UserError
from trm.utils.paths import file_digest

ROOT = re.compile(r"s3://[^/\s]+(/[^/\s]+)*")


def collect(params: Params, run: Run | None, provenance: Provenance | None = None) -> dict[str, str]:
    """Download the output of every stage to `outputs/`, commit them to DVC, and update metrics.json and runs.tsv.

    The content keys of the run must equal those of the workspace. They are compared before any file is written.

    Args:
        params: The experiment of the workspace.
        run: The pipeline run. None: the artifacts in `cluster.artifact_root` under the workspace's content keys.
        provenance: Source of the artifacts if `run` is None.

    Returns:
        Stage name -> URI.

    Raises:
        UserError: The workspace differs from the run (the message names the param or module), or an output is missing.
        InternalError: DVC failed.
    """
    check_workspace()
    workspace, stages = requests(params), enabled_stages(params)
    if run and not (
        ROOT.fullmatch(str(run.arguments.get("artifact_root")))
        and all(re.fullmatch(CONTENT_KEY, str(run.arguments.get(key_parameter(stage)))) for stage in REQUIRED_STAGES)
    ):
        raise UserError(f"run {run.id} is not a run of this pipeline; pass an id that `submit` printed")
    root = str(run.arguments["artifact_root"]) if run else params.cluster.artifact_root
    uris: dict[str, str] = {}
    for stage in stages:
        if run and key_parameter(stage) not in run.arguments:
            raise UserError(f"run {run.id} has no stage {stage.name}; correct {stage.enabled_by} in params.yaml")
        own_key = workspace[stage.name]["key"]
        key = str(run.arguments[key_parameter(stage)]) if run else own_key
        uris[stage.name] = s3.artifact_uri(root, stage.name, key)
        manifest = s3.read_manifest(uris[stage.name])
        if key != own_key:
            raise UserError(f"{_difference(stage, manifest, run, workspace[stage.name])}; no file was changed")
        if manifest is None:
            state = f" (state of the run: {run.state.lower()})" if run else ""
            raise UserError(f"{uris[stage.name]}: no such artifact{state}; no file was changed")
    names = [stage.name for stage in stages]
    # Unreadable files raise errors before the download.
    read_runs()
    dvc("stage", "list", *names)
    commit = head_commit()
    for stage in stages:
        download(uris[stage.name], OUTPUTS / stage.output)
    dvc("commit", "--force", *names)
    dvc("status", "--quiet", *names)
    metrics = json.loads((OUTPUTS / EVALUATE.output / "metrics.json").read_text(encoding="utf-8"))
    write_json(METRICS_FILE, {"keys": {name: uri.rpartition("/")[2] for name, uri in uris.items()}, "metrics": metrics})
    provenance = provenance or (Provenance(run=run.id, image=run.image) if run else Provenance())
    add_records(replace(provenance, commit=commit, dvc_lock=file_digest(LOCK)))
    return uris


def _difference(stage: Stage, manifest: Mapping[str, Any] | None, run: Run | None, workspace: Mapping[str, Any]) -> str:
    """Return one line about why the content key of a run's stage differs from that of the workspace."""
    recorded: Mapping[str, Any] = manifest or {}
    if not recorded and run:
        recorded = {"params": {section: _parsed(run.arguments.get(section)) for section in stage.sections}}
    for part in ("params", "source", "modules", "versions"):
        for name, own, other in differences(workspace.get(part, {}), recorded.get(part, workspace.get(part, {}))):
            if part == "modules":
                return f"{name} differs from the file that stage {stage.name} of the run used; check out its commit"
            remedy = "correct params.yaml" if part == "params" else "install the same version"
            return f"{name} is {own!r} in the workspace and {other!r} in the run; {remedy}, or collect another run"
    return f"stage {stage.name} of the run has another content key: its code or libraries differ from the workspace"


def _parsed(section: object) -> object:
    try:
        return json.loads(section) if isinstance(section, str) else None
    except ValueError:
        return None


def download(uri: str, folder: Path) -> None:
    """Download an artifact and its duration, unless the folder has it. Raises the errors of `trm.storage.s3`."""
    if not ((folder / MANIFEST).is_file() and read_manifest(folder) == s3.read_manifest(uri)):
        s3.download(uri, folder)
    timing = s3.get_json(f"{uri}/{TIMING}")
    if timing is None:
        timing_file(folder).unlink(missing_ok=True)  # it belongs to another run
    else:
        write_json(timing_file(folder), timing)
