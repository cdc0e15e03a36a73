"""`python -m pipeline`: the experiment of params.yaml on a cluster, and what becomes of its result."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from trm.cli import run_app
from trm.config import Params, load_params
from trm.errors import Fault, UserError

if TYPE_CHECKING:
    from pipeline.kfp.client import Run
    from pipeline.retraining.compare import Comparison
    from pipeline.retraining.registry import Champion

app = typer.Typer(
    help="Run the experiment of params.yaml on Kubeflow Pipelines, and bring its result home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMPILED = Path(__file__).parent / "trm.yaml"
ParamsFile = Annotated[Path, typer.Option("--params", help="The experiment's settings.")]
Result = Annotated[
    str | None, typer.Argument(help="A content key of stage evaluate or its first digits, or a run's id.")
]
ImageName = Annotated[str, typer.Option("--image", help="What `make image` built.")]
DataSet = Annotated[str | None, typer.Option("--data-set", help="Its name; without one, that of params.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `submit` prints it.")]
PARAMS = Path("params.yaml")


@app.command()
def plan(
    params: ParamsFile = PARAMS,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Ask S3 what lies there.")] = False,
    github: Annotated[bool, typer.Option("--github", help="Tell the workflow that runs this, too.")] = False,
    comment: Annotated[int | None, typer.Option(help="Write it to this pull request, too.")] = None,
) -> None:
    """Show which stages would run, why, where results lie already, and the time it takes. Nothing is started."""
    from pipeline.retraining import plan_text
    from pipeline.retraining.plan import make_plan

    made = make_plan(load_params(params), params, online)
    if as_json:
        print(json.dumps(made.as_json(), indent=2))
    elif markdown:
        print(plan_text.markdown(made), end="")
    else:
        from rich.console import Console

        plan_text.show(made, Console())
    if github:
        from pipeline.github import set_outputs, write_summary

        write_summary(plan_text.markdown(made))
        environment = "retrain-approval" if made.needs_approval else "retrain"
        set_outputs(runs=",".join(made.cluster), experiment=made.stages[-1].key[:12], environment=environment)
    if comment is not None:
        from pipeline.github import Repository

        print(Repository().comment(comment, plan_text.MARKER, plan_text.markdown(made)), file=sys.stderr)


@app.command("compile")
def compile_(
    params: ParamsFile = PARAMS,
    output: Annotated[Path, typer.Option(help="The file to write.")] = COMPILED,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where the file is stale.")] = False,
) -> None:
    """Compile the pipeline for the section `cluster`; Kubeflow's page can upload the file."""
    from tempfile import TemporaryDirectory

    from pipeline.kfp.definition import compile_to

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
    image: Annotated[str | None, typer.Option(help="Instead of cluster.image: by digest, or pushed from here.")] = None,
) -> None:
    """Start the experiment on the cluster, unless a run of it is there; prints the run's id and address."""
    from pipeline.kfp.client import Kubeflow
    from pipeline.kfp.submit import pushed, submit

    settings = load_params(params)
    if image is not None:
        cluster = settings.cluster.model_copy(update={"image": pushed(image)})
        settings = settings.model_copy(update={"cluster": cluster})
    run, new = submit(settings, again)
    said = "submitted" if new else f"is there already ({run.state.lower()}; --again starts another)"
    print(f"run {run.id} {said}", file=sys.stderr)
    print(Kubeflow(settings.cluster).address(run.id), file=sys.stderr)
    print(run.id)


@app.command()
def watch(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Show a run until it ends; exit code 0 only if it succeeded."""
    from pipeline.kfp.client import Kubeflow
    from pipeline.kfp.watch import verdict, watch

    ended = watch(Kubeflow(load_params(params).cluster), run)
    if ended.state != "SUCCEEDED":
        raise Fault(verdict(ended))
    print(f"run {ended.id} succeeded; `python -m pipeline collect {ended.id}` brings it home", file=sys.stderr)


@app.command()
def stop(run: RunId, params: ParamsFile = PARAMS) -> None:
    """Stop a run; what its stages have published stays."""
    from pipeline.kfp.client import ENDED, Kubeflow

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
    from pipeline.kfp.collect import collect

    settings = load_params(params)
    uris = collect(settings, _run(settings, run) if run else None)
    for stage, uri in uris.items():
        print(f"{stage}: {uri}")


def _run(params: Params, run_id: str) -> "Run":
    from pipeline.kfp.client import Kubeflow

    return Kubeflow(params.cluster).get(run_id)


@app.command()
def job(
    params: ParamsFile = PARAMS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest as YAML, and start nothing.")] = False,
) -> None:
    """Train as a PyTorchJob on the kubeconfig's cluster, without Kubeflow Pipelines; the data set must be in S3."""
    from pipeline.kfp.train_job import manifest, run_job

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
    image: ImageName = "trm:latest",
) -> None:
    """Run the compiled components in Docker on this machine, with artifacts in the S3 that AWS_* variables name."""
    from pipeline.local.docker_runner import run_local

    for stage, uri in run_local(load_params(params), image).items():
        print(f"{stage}: {uri}")


@app.command()
def compare(
    candidate: Result = None,
    champion: Annotated[str | None, typer.Argument(help="Another result; without one, the champion.")] = None,
    params: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Compare a result (what was collected last) with the champion, puzzle by puzzle, and write a report.

    Exit code 0: better (or there is no champion); 3: no difference that counts; 4: worse.
    """
    from pipeline.results import find_key, load_result
    from pipeline.retraining import compare as comparing
    from pipeline.retraining import report
    from pipeline.retraining.registry import Throne
    from pipeline.retraining.retrain import REPORT

    settings = load_params(params)
    root = settings.cluster.root
    result = load_result(root, find_key(settings, candidate))
    key = find_key(settings, champion) if champion else None
    if key is None and (there := Throne(root, result.data_set).champion()):
        key = there.key
    if key is None:
        report.write_first(result, REPORT)
        print(f"{result.data_set} has no champion yet: nothing to compare {result.key[:12]} with", file=sys.stderr)
        return
    made = comparing.compare(result, load_result(root, key))
    files = report.write_report(made, REPORT)
    print(json.dumps(made.as_json(), indent=2) if as_json else report.headline(made))
    print(f"report: {', '.join(map(str, files))}", file=sys.stderr)
    _leave(made)


@app.command()
def promote(
    result: Result = None,
    params: ParamsFile = PARAMS,
    anyway: Annotated[bool, typer.Option("--anyway", help="Without comparing it.")] = False,
) -> None:
    """Make a result (what was collected last) the champion of its data set, if it is better than the champion.

    Exit code 3 or 4, as of `compare`: it is not, and the champion stays.
    """
    _promote(load_params(params), result, anyway)


@app.command()
def rollback(
    params: ParamsFile = PARAMS,
    data_set: DataSet = None,
    to: Annotated[int | None, typer.Option(help="A version in the history; without one, the champion before.")] = None,
) -> None:
    """Bring back the champion before the present one. Nothing is deleted."""
    from pipeline.retraining.retrain import throne

    print(_described(throne(load_params(params), data_set).rollback(to)))


@app.command("champion")
def champion_(params: ParamsFile = PARAMS, data_set: DataSet = None, as_json: AsJson = False) -> None:
    """Show the champion of a data set, its whole lineage, and those before it."""
    from pipeline.retraining.retrain import throne

    place = throne(load_params(params), data_set)
    champion = place.champion()
    if champion is None:
        raise UserError(f"{place.uri}: there is no champion yet; `python -m pipeline promote` makes one")
    if as_json:
        print(champion.model_dump_json(indent=2))
        return
    print(_described(champion))
    for name in ("commit", "run", "image", "dvc_lock", "wandb", "keys"):
        value = getattr(champion, name)
        shown = ", ".join(f"{stage} {key[:12]}" for stage, key in value.items()) if name == "keys" else value
        print(f"  {name:9}{shown or 'not known'}")
    for other in reversed(place.history()):
        if other.version != champion.version:
            print(f"before: {_described(other)}")


@app.command()
def publish(
    base: Annotated[str, typer.Option(help="The branch that it is to be merged into.")] = "main",
    report: Annotated[Path | None, typer.Option(help="Text of the pull request, as `compare` writes it.")] = None,
) -> None:
    """Bring the result that was collected last: `dvc push`, and a pull request with dvc.lock, metrics and runs.tsv."""
    from pipeline.retraining.publish import publish

    print(publish(base, report))


@app.command()
def pending(
    params: ParamsFile = PARAMS,
    github: Annotated[bool, typer.Option("--github", help="Tell the workflow that runs this, too.")] = False,
) -> None:
    """List the runs that succeeded and that nobody has collected, as JSON."""
    from pipeline.retraining.retrain import pending

    waiting = json.dumps(pending(load_params(params)))
    print(waiting)
    if github:
        from pipeline.github import set_outputs

        set_outputs(runs=waiting)


@app.command()
def retrain(
    params: ParamsFile = PARAMS,
    local: Annotated[bool, typer.Option("--local", help="In Docker on this machine, not on a cluster.")] = False,
    image: ImageName = "trm:latest",
) -> None:
    """Plan, run, watch, collect, compare, promote: the whole way of a change. Exit codes as of `promote`."""
    from pipeline.retraining.retrain import compute

    settings = load_params(params)
    compute(settings, params, image if local else None)
    _promote(settings, None, anyway=False)


def _promote(params: Params, name: str | None, anyway: bool) -> None:
    from pipeline.retraining.registry import Refused
    from pipeline.retraining.report import headline
    from pipeline.retraining.retrain import REPORT, promote

    try:
        champion, comparison, new = promote(params, name, anyway)
    except Refused as refused:
        print(headline(refused.comparison))
        print(f"not promoted: the champion stays; report: {REPORT}.html; `promote --anyway` overrules", file=sys.stderr)
        _leave(refused.comparison)
    else:
        if comparison:
            print(headline(comparison))
        print(_described(champion) + ("" if new else ", as it was already"))


def _leave(comparison: "Comparison") -> None:
    from pipeline.retraining.compare import EXIT_CODES

    raise SystemExit(EXIT_CODES[comparison.verdict])


def _described(champion: "Champion") -> str:
    from pipeline.retraining.report import percent

    back = f", version {champion.restored} again" if champion.restored else ""
    score = percent(champion.metrics.get("exact_accuracy"))
    return f"champion of {champion.data_set}: {champion.key[:12]}, {score} exact (version {champion.version}{back})"


def main() -> NoReturn:
    """Run the command line, with the exit codes of `trm`."""
    run_app(app, "pipeline")


if __name__ == "__main__":
    main()
