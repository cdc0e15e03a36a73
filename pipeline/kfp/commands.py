"""Commands of `python -m pipeline` for Kubeflow Pipelines and training jobs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.options import PARAMS, AsJson, ParamsFile, RunId, print_next
from trm.config.cluster import ClusterParams
from trm.stages.params import load_params
from trm.utils.errors import InternalError, UserError

if TYPE_CHECKING:
    from pipeline.kfp.client import Run

COMPILED = Path(__file__).parents[1] / "trm.yaml"


def compile_(
    params: ParamsFile = PARAMS,
    output: Annotated[Path, typer.Option(help="File to write.")] = COMPILED,
    check: Annotated[bool, typer.Option("--check", help="Fail if the file is stale, and do not write it.")] = False,
) -> None:
    """Compile the pipeline to a YAML file, which can be uploaded to Kubeflow.

    It depends on section `cluster`, and on the optional stages that the params enable.
    """
    from tempfile import TemporaryDirectory

    from pipeline.kfp.compile import compile_pipeline
    from pipeline.kfp.tracking import tracked_cluster
    from trm.stages.records import enabled_stages

    settings = load_params(params)
    with TemporaryDirectory() as folder:
        compiled = Path(folder) / "trm.yaml"
        compile_pipeline(compiled, tracked_cluster(settings), enabled_stages(settings))
        if check and (not output.is_file() or output.read_bytes() != compiled.read_bytes()):
            raise UserError(f"{output}: stale; run `python -m pipeline compile` and commit the file")
        if not check:
            try:
                output.write_bytes(compiled.read_bytes())
            except OSError as error:
                raise UserError(f"{output}: not writable ({error.strerror}); pass another file with --output") from None
            print(f"wrote {output}")
            print_next("submit", params, "or upload the file to Kubeflow")


def submit(
    params: ParamsFile = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Start a new run although one exists.")] = False,
    image: Annotated[
        str | None, typer.Option(help="Image to use instead of cluster.image: a digest, or a tag pushed from here.")
    ] = None,
) -> None:
    """Start the experiment on the cluster, unless a run of it exists. Prints the run's id and URL."""
    from pipeline.kfp.submit import image_digest, submit

    settings = load_params(params)
    if image is not None:
        cluster = settings.cluster.model_copy(update={"image": image_digest(image)})
        settings = settings.model_copy(update={"cluster": cluster})
    run, new = submit(settings, force)
    _print_run(run, new, settings.cluster)
    print_next(f"watch {run.id}", params)


def sweep(
    study: Annotated[str, typer.Argument(help="A study file, or a study that ships with the package.")],
    params: ParamsFile = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Start a new run although one exists.")] = False,
    image: Annotated[
        str | None, typer.Option(help="Image to use instead of cluster.image: a digest, or a tag pushed from here.")
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Download the results and write the table; start nothing.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="The parent of the folder of --collect.")] = Path("studies"),
) -> None:
    """Start the runs of a study file as one run on the cluster, which share what they have in common.

    Only section `cluster` of the params file applies. `trm study` runs the same file on this machine.
    """
    from pipeline.kfp.submit import image_digest
    from pipeline.kfp.sweep import collect_sweep, submit_sweep
    from pipeline.kfp.tracking import tracked_cluster
    from trm.studies.study import load_study

    cluster, (settings, title) = tracked_cluster(load_params(params)), load_study(study)
    name = Path(study).stem
    if collect:
        from rich.console import Console

        from trm.reporting.terminal.artifact_summary import study as table

        out = folder / name
        absent = collect_sweep(settings, title, cluster, out)
        Console(highlight=False).print(table(out))
        print(f"{out / 'report.md'}" + (f": {len(absent)} runs have no result yet" if absent else ""), file=sys.stderr)
        return
    if image is not None:
        cluster = cluster.model_copy(update={"image": image_digest(image)})
    run, new = submit_sweep(settings, name, cluster, force)
    _print_run(run, new, cluster)
    print_next(f"sweep {study} --collect", params, f"after `python -m pipeline watch {run.id}`")


def _print_run(run: "Run", new: bool, cluster: ClusterParams) -> None:
    """Print the id of a run on stdout; on stderr, whether it is new, and its URL."""
    from pipeline.kfp.client import KfpClient

    status = "submitted" if new else f"exists ({run.state.lower()}); --force starts a new one"
    print(f"run {run.id} {status}", file=sys.stderr)
    print(KfpClient(cluster).run_url(run.id), file=sys.stderr)
    print(run.id, flush=True)


def watch(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Show a run until it finishes. The exit code is 0 only if it succeeds."""
    from pipeline.kfp.client import KfpClient
    from pipeline.kfp.watch import failure_message, watch

    finished = watch(KfpClient(load_params(params).cluster), run)
    if finished.state != "SUCCEEDED":
        raise InternalError(failure_message(finished))
    print(f"run {run} succeeded", file=sys.stderr)
    print_next(f"collect {run}", params, "downloads its outputs")


def runs(
    params: ParamsFile = PARAMS,
    state: Annotated[list[str] | None, typer.Option(help="Only runs in this state: failed, ...")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="The newest runs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest runs of the pipeline: id, time, state, name, commit."""
    import json

    from pipeline.kfp.client import KfpClient
    from pipeline.kfp.definition import PIPELINE

    wanted = {each.lower() for each in state or ()}
    found = KfpClient(load_params(params).cluster).list_runs(PIPELINE)
    chosen = [run for run in found if not wanted or run.state.lower() in wanted][:limit]
    if as_json:
        names = ("id", "name", "state", "commit", "image", "error")
        rows = [{name: getattr(run, name) for name in names} | {"created": run.created.isoformat()} for run in chosen]
        print(json.dumps(rows, indent=2))
        return
    for run in chosen:
        print(f"{run.id}  {run.created:%Y-%m-%d %H:%M}  {run.state.lower():9}  {run.name}  {run.commit[:12]}".rstrip())
    if not chosen:
        print("no runs" + (f" in state {', '.join(sorted(wanted))}" if wanted else ""), file=sys.stderr)


def logs(
    run: RunId,
    params: ParamsFile = PARAMS,
    stage: Annotated[str | None, typer.Option(help="Only the log of this stage, without its name.")] = None,
    worker: Annotated[
        int | None, typer.Option(min=0, help="Only the log of this worker of the training job, from 0.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has finished.")] = False,
) -> None:
    """Print the logs of a run's stages. That of a training job has the lines of its first worker.

    --worker reads the pod of any worker, and from S3 the logs of pods that are deleted.
    """
    from pipeline.kfp.client import KfpClient
    from pipeline.kfp.watch import print_logs
    from pipeline.kfp.worker_logs import print_worker_logs

    cluster = load_params(params).cluster
    if worker is None:
        print_logs(KfpClient(cluster), run, stage, follow)
        return
    if stage not in (None, "train"):
        raise UserError(f"--worker requires --stage train. Got --stage {stage}; only the training has workers")
    print_worker_logs(KfpClient(cluster), cluster, run, worker, follow)


def stop(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Stop a run and delete its training job. Artifacts of finished stages are kept."""
    from pipeline.kfp.client import FINISHED_STATES, KfpClient
    from pipeline.kfp.train_job import stop_train_job

    cluster = load_params(params).cluster
    client = KfpClient(cluster)
    found = client.get(run)
    if found.state in FINISHED_STATES:
        print(f"run {run} has already finished: {found.state.lower()}", file=sys.stderr)
    else:
        client.stop(run)
        print(f"stopping run {run}; `python -m pipeline watch {run}` waits for it", file=sys.stderr)
    if cluster.train_job is not None and found.state != "SUCCEEDED":
        print(stop_train_job(cluster, found), file=sys.stderr)


def collect(
    run: Annotated[
        str | None, typer.Argument(help="Run id. Default: the artifacts in cluster.artifact_root for params.yaml.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Download the outputs of a run of this experiment and commit them to DVC."""
    from pipeline.kfp.collect import collect

    settings = load_params(params)
    found = None
    if run:
        from pipeline.kfp.client import KfpClient

        found = KfpClient(settings.cluster).get(run)
    for stage, uri in collect(settings, found).items():
        print(f"{stage}: {uri}", flush=True)
    print_next("compare", params, "with the champion of the dataset")


def train_job(
    params: ParamsFile = PARAMS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest as YAML and start nothing.")] = False,
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="Print the TrainingRuntime of back end trainjob as YAML and start nothing."),
    ] = False,
) -> None:
    """Train as a job on the cluster of the kubeconfig, without Kubeflow Pipelines. Reads the dataset from S3."""
    from pipeline.kfp.train_job import manifest, run_train_job, training_runtime

    settings = load_params(params)
    if not dry_run and not runtime:
        print(f"train: {run_train_job(settings)}")
        return
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1 << 20  # do not wrap the line of params
    yaml.dump(training_runtime(settings.cluster) if runtime else manifest(settings), sys.stdout)
