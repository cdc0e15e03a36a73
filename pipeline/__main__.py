"""`python -m pipeline`: the experiment of params.yaml on a cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from trm.cli import run_app
from trm.config import Params, load_params
from trm.errors import Fault, UserError

if TYPE_CHECKING:
    from pipeline.kubeflow import Run

app = typer.Typer(
    help="Run the experiment of params.yaml on Kubeflow Pipelines, and bring its result home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMPILED = Path(__file__).parent / "trm.yaml"
ParamsFile = Annotated[Path, typer.Option("--params", help="The experiment's settings.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `submit` prints it.")]
PARAMS = Path("params.yaml")


@app.command("compile")
def compile_(
    params: ParamsFile = PARAMS,
    output: Annotated[Path, typer.Option(help="The file to write.")] = COMPILED,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where the file is stale.")] = False,
) -> None:
    """Compile the pipeline for the section `cluster`; Kubeflow's page can upload the file."""
    from tempfile import TemporaryDirectory

    from pipeline.definition import compile_to

    with TemporaryDirectory() as folder:
        made = Path(folder) / "trm.yaml"
        compile_to(made, load_params(params).cluster)
        if check and (not output.is_file() or output.read_bytes() != made.read_bytes()):
            raise UserError(f"{output}: is stale; run `python -m pipeline compile` and commit it")
        if not check:
            try:
                output.write_bytes(made.read_bytes())
            except OSError as error:
                raise UserError(f"{output}: cannot be written ({error.strerror}); name another with --output") from None
            print(f"{output} holds the pipeline")


@app.command()
def submit(
    params: ParamsFile = PARAMS,
    again: Annotated[bool, typer.Option("--again", help="A new run, even where there is one already.")] = False,
) -> None:
    """Start the experiment on the cluster, unless a run of it is there; prints the run's id and address."""
    from pipeline.kubeflow import Kubeflow
    from pipeline.submit import submit

    settings = load_params(params)
    run, new = submit(settings, again)
    said = "submitted" if new else f"is there already ({run.state.lower()}; --again starts another)"
    print(f"run {run.id} {said}", file=sys.stderr)
    print(Kubeflow(settings.cluster).address(run.id), file=sys.stderr)
    print(run.id)


@app.command()
def watch(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Show a run until it ends; exit code 0 only if it succeeded."""
    from pipeline.kubeflow import Kubeflow
    from pipeline.watch import verdict, watch

    ended = watch(Kubeflow(load_params(params).cluster), run)
    if ended.state != "SUCCEEDED":
        raise Fault(verdict(ended))
    print(f"run {ended.id} succeeded; `python -m pipeline collect {ended.id}` brings it home", file=sys.stderr)


@app.command()
def stop(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Stop a run; what its stages have published stays."""
    from pipeline.kubeflow import ENDED, Kubeflow

    kubeflow = Kubeflow(load_params(params).cluster)
    state = kubeflow.get(run).state
    if state in ENDED:
        print(f"run {run} has ended already: {state.lower()}", file=sys.stderr)
        return
    kubeflow.stop(run)
    print(f"run {run} is being stopped; `python -m pipeline watch {run}` shows when it has ended", file=sys.stderr)


@app.command()
def collect(
    run: Annotated[str | None, typer.Argument(help="The run's id; without one, what cluster.root holds.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Bring the outputs of a run of this very experiment home, so that `dvc repro` has nothing left to do."""
    from pipeline.collect import collect

    settings = load_params(params)
    uris = collect(settings, _run(settings, run) if run else None)
    for stage, uri in uris.items():
        print(f"{stage}: {uri}")


def _run(params: Params, run_id: str) -> "Run":
    from pipeline.kubeflow import Kubeflow

    return Kubeflow(params.cluster).get(run_id)


@app.command()
def job(
    params: ParamsFile = PARAMS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest as YAML, and start nothing.")] = False,
) -> None:
    """Train as a PyTorchJob on the kubeconfig's cluster, without Kubeflow Pipelines; the data set must be in S3."""
    from pipeline.job import manifest, run_job

    settings = load_params(params)
    if not dry_run:
        print(f"train: {run_job(settings)}")
        return
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1 << 20  # a line of params stays one line
    yaml.dump(manifest(settings), sys.stdout)


@app.command("local")
def local_(
    params: ParamsFile = PARAMS,
    image: Annotated[str, typer.Option(help="What `make image` built.")] = "trm:latest",
) -> None:
    """Run the compiled components in Docker on this machine, with artifacts in the S3 that AWS_* variables name."""
    from pipeline.local import run_local

    for stage, uri in run_local(load_params(params), image).items():
        print(f"{stage}: {uri}")


def main() -> NoReturn:
    """Run the command line, with the exit codes of `trm`."""
    run_app(app, "pipeline")


if __name__ == "__main__":
    main()
