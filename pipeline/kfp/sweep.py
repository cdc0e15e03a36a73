"""Sweeps: the runs of a study file as one run of the pipeline, and their results in one table."""

from collections.abc import Mapping
from pathlib import Path

from components.parameters import PIPELINE
from pipeline.git import head_commit
from pipeline.kfp.client import KfpClient, Run
from pipeline.kfp.collect import download
from pipeline.kfp.compile import spec_of
from pipeline.kfp.submit import check_data_reachable, check_image, check_start_model_reachable, missing_artifacts
from pipeline.kfp.sweep_definition import DIGEST, Name, build_sweep, sweep_nodes
from pipeline.kfp.train_job import check_train_job
from trm.config.base import canonical_json
from trm.config.cluster import ClusterParams
from trm.config.params import Params
from trm.stages.content_keys import content_keys, digest_of
from trm.stages.records import producer
from trm.storage import s3
from trm.studies.report import Result, write_report
from trm.studies.study import RESULT, Study, runs_of
from trm.studies.study import Run as StudyRun
from trm.utils.errors import UserError

MAX_SPEC_BYTES = 512 << 10
"""Maximum size of the compiled pipeline as JSON: Kubeflow makes a workflow of it, which Argo limits to 1 MiB."""
COLLECTED = ("model", RESULT)
"""Outputs that the table is made of."""


def submit_sweep(study: Study, name: str, cluster: ClusterParams, force: bool) -> tuple[Run, bool]:
    """Return the run of this sweep, and whether it is new.

    A run of the same sweep is returned unless it failed or was stopped. Finished stages are not computed again, in
    whatever run they were made. Raises `UserError` for a run that is impossible on the cluster, and for a sweep that is
    too large.

    Args:
        study: The contents of the study file.
        name: Name of the study.
        cluster: Section `cluster`. The recipes of the study have none.
        force: Start a new run although one exists.
    """
    check_image(cluster)
    runs = {run.name: params for run, params in _params(study, cluster)}
    for run, params in runs.items():
        try:
            check_data_reachable(params.data)
            check_start_model_reachable(params.train)
            check_train_job(params)
        except UserError as error:
            raise UserError(f"run {run}: {error}") from None
    nodes, commit = sweep_nodes(runs), head_commit()
    missing = missing_artifacts(cluster.artifact_root, nodes)
    uncached: set[Name] = set(nodes) if force or missing is None else missing
    spec = spec_of(build_sweep(cluster, nodes, uncached))
    size = len(canonical_json(spec))
    if size > MAX_SPEC_BYTES:
        raise UserError(
            f"{name}: its {len(runs)} runs make a pipeline of {size >> 10} KiB; Kubeflow accepts "
            f"{MAX_SPEC_BYTES >> 10} KiB: split the file"
        )
    source = f"image {cluster.image}, study {name}"
    digest = digest_of({"artifacts": sorted(f"{stage}={key}" for stage, key in nodes)})

    def submit_once(force: bool) -> tuple[Run, bool]:
        return KfpClient(cluster).submit(
            experiment=PIPELINE,
            name=f"{PIPELINE}-sweep-{digest[:12]}",
            spec=spec,
            arguments={"artifact_root": cluster.artifact_root, DIGEST: digest},
            service_account=cluster.service_account,
            force=force,
            description=f"commit {commit}, {source}" if commit else source,
        )

    run, new = submit_once(force)
    if not new and run.state == "SUCCEEDED" and missing:
        return submit_once(force=True)
    return run, new


def collect_sweep(study: Study, title: str, cluster: ClusterParams, folder: Path) -> list[str]:
    """Download models and evaluations to `folder`, as `trm study` leaves them, and write its report.

    Returns the names of the runs without a result in S3, which the report lists. Raises `UserError` if none has one.
    """
    results: list[Result] = []
    absent: dict[str, str] = {}
    for run, params in _params(study, cluster, folder):
        keys = content_keys(params)
        stages = {output: producer(output).name for output in COLLECTED}
        uris = {output: s3.artifact_uri(cluster.artifact_root, name, keys[name]) for output, name in stages.items()}
        without = [uri for uri in uris.values() if s3.read_manifest(uri) is None]
        if without:
            absent[run.name] = f"{without[0]} does not exist"
            continue
        _download(run, uris)
        results.append(Result.of(run.recipe, run.seed, run.folder, params))
    if not results:
        raise UserError(
            f"{cluster.artifact_root}: no run of this sweep has a result yet; `python -m pipeline runs` lists runs"
        )
    write_report(title, results, absent, folder)
    return list(absent)


def _download(run: StudyRun, uris: Mapping[str, str]) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "params.yaml").write_text(run.text, encoding="utf-8")
    for output, uri in uris.items():
        download(uri, run.folder / output)


def _params(study: Study, cluster: ClusterParams, folder: Path = Path("studies")) -> list[tuple[StudyRun, Params]]:
    """Return the runs of a study with their params on this cluster."""
    return [(run, run.params.model_copy(update={"cluster": cluster})) for run in runs_of(study, folder)]
