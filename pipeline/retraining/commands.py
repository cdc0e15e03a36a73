"""Commands of `python -m pipeline` for retraining: plans, comparisons, champions, publication."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pipeline.options import (
    PARAMS,
    AsJson,
    DatasetName,
    GitHubOutputs,
    ImageName,
    ParamsFile,
    ResultName,
    print_next,
)
from trm.config.params import Params
from trm.stages.params import load_cluster, load_params
from trm.utils.errors import UserError
from trm.utils.output import printable_lines

if TYPE_CHECKING:
    from pipeline.retraining.compare import Comparison
    from pipeline.retraining.registry import Champion


def plan(
    params: ParamsFile = PARAMS,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Query S3 for existing artifacts.")] = False,
    github: GitHubOutputs = False,
    comment: Annotated[int | None, typer.Option(help="Pull request on which the plan is written as a comment.")] = None,
) -> None:
    """Show which stages would run and why, where results exist, and the expected duration. Starts nothing."""
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

        print(Repository().upsert_comment(comment, plan_text.MARKER, plan_text.markdown(made)), file=sys.stderr)


def compare(
    candidate: ResultName = None,
    champion: Annotated[str | None, typer.Argument(help="Result to compare with. Default: the champion.")] = None,
    params: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Compare a result with the champion on the same puzzles and write a report.

    Exit codes: 0 better, or no champion exists; 3 no significant difference; 4 worse.
    """
    from pipeline.results import load_result, resolve_key
    from pipeline.retraining import report
    from pipeline.retraining.compare import compare
    from pipeline.retraining.registry import Registry
    from pipeline.retraining.retrain import REPORT

    settings = load_params(params)
    root = settings.cluster.artifact_root
    result = load_result(root, resolve_key(settings, candidate))
    key = resolve_key(settings, champion) if champion else None
    if key is None and (current := Registry(root, result.dataset).champion()):
        key = current.key
    if key is None:
        report.write_first_report(result, REPORT)
        print(f"{result.dataset} has no champion: {result.key[:12]} is the first result", file=sys.stderr)
        print_next(_with_name("promote", candidate), params)
        return
    comparison = compare(result, load_result(root, key))
    files = report.write_report(comparison, REPORT)
    print(json.dumps(comparison.as_json(), indent=2) if as_json else report.headline(comparison))
    print(f"report: {', '.join(map(str, files))}", file=sys.stderr)
    if comparison.verdict == "better":
        print_next(_with_name("promote", candidate), params)
    _exit(comparison)


def promote(
    result: ResultName = None,
    params: ParamsFile = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Promote without a comparison.")] = False,
) -> None:
    """Make a result the champion of its dataset if it is better than the current champion.

    Exit codes 3 and 4, as of `compare`: the champion is unchanged.
    """
    _promote(load_params(params), result, force)
    print_next("publish", purpose="opens a pull request with the result that was collected last")


def rollback(
    params: ParamsFile = PARAMS,
    dataset: DatasetName = None,
    to: Annotated[
        int | None, typer.Option(help="Version in the history. Default: the version before the champion.")
    ] = None,
) -> None:
    """Restore the previous champion. Nothing is deleted."""
    from pipeline.retraining.retrain import dataset_registry

    print(_describe(dataset_registry(load_params(params), dataset).rollback(to)))


def champion(params: ParamsFile = PARAMS, dataset: DatasetName = None, as_json: AsJson = False) -> None:
    """Show the champion of a dataset, its provenance and its predecessors."""
    from pipeline.retraining.retrain import dataset_registry

    registry = dataset_registry(load_params(params), dataset)
    current = registry.champion()
    if current is None:
        raise UserError(f"{registry.uri}: no champion; run `python -m pipeline promote` first")
    if as_json:
        print(current.model_dump_json(indent=2))
        return
    print(printable_lines(_describe(current)))
    for name in ("commit", "run", "image", "dvc_lock", "wandb", "keys"):
        value = getattr(current, name)
        text = ", ".join(f"{stage} {key[:12]}" for stage, key in value.items()) if name == "keys" else value
        print(printable_lines(f"  {name:9}{text or 'unknown'}"))
    for earlier in reversed(registry.history()):
        if earlier.version != current.version:
            print(printable_lines(f"previous: {_describe(earlier)}"))


def publish(
    base: Annotated[str, typer.Option(help="Target branch of the pull request.")] = "main",
    report: Annotated[Path | None, typer.Option(help="Body of the pull request: a report of `compare`.")] = None,
    files: Annotated[
        Path | None, typer.Option(help="Folder with result files of another job, which has run `dvc push`.")
    ] = None,
    key: Annotated[str, typer.Option(help="With --files: content key of stage evaluate.")] = "",
    commit: Annotated[str, typer.Option(help="With --files: commit of the run.")] = "",
) -> None:
    """Publish the result collected last: `dvc push`, and a pull request with dvc.lock, metrics.json and runs.tsv."""
    from pipeline.retraining.publish import publish, publish_handover

    print(publish(base, report) if files is None else publish_handover(base, files, key, commit))


def list_uncollected(params: ParamsFile = PARAMS, github: GitHubOutputs = False) -> None:
    """List succeeded runs whose results were not collected, as JSON."""
    from pipeline.retraining.uncollected import list_uncollected

    runs = json.dumps(list_uncollected(load_cluster(params)))
    print(runs)
    if github:
        from pipeline.github import set_outputs

        set_outputs(runs=runs)


def retrain(
    params: ParamsFile = PARAMS,
    local: Annotated[bool, typer.Option("--local", help="Run in Docker on this machine, not on the cluster.")] = False,
    image: ImageName = "trm:latest",
) -> None:
    """Plan, run, collect, compare and promote the experiment. Exit codes as of `promote`."""
    from pipeline.retraining.retrain import run_experiment

    settings = load_params(params)
    run_experiment(settings, params, image if local else None)
    _promote(settings, None, force=False)


def _promote(params: Params, name: str | None, force: bool) -> None:
    from pipeline.retraining.registry import PromotionRejected
    from pipeline.retraining.report import headline
    from pipeline.retraining.retrain import REPORT, promote

    try:
        current, comparison, new = promote(params, name, force)
    except PromotionRejected as rejected:
        print(headline(rejected.comparison))
        print(
            f"not promoted: the champion is unchanged; report: {REPORT}.html; `promote --force` skips the comparison",
            file=sys.stderr,
        )
        _exit(rejected.comparison)
    else:
        if comparison:
            print(headline(comparison))
        print(_describe(current) + ("" if new else " (unchanged)"))


def _with_name(command: str, name: str | None) -> str:
    return command if name is None else f"{command} {shlex.quote(name)}"


def _exit(comparison: "Comparison") -> NoReturn:
    from trm.evaluation.paired import EXIT_CODES

    raise SystemExit(EXIT_CODES[comparison.verdict])


def _describe(champion: "Champion") -> str:
    from pipeline.results import format_percent

    restored = f", restored from version {champion.restored_version}" if champion.restored_version else ""
    accuracy = format_percent(champion.metrics.get("exact_accuracy"))
    return (
        f"champion of {champion.dataset}: {champion.key[:12]}, {accuracy} exact accuracy "
        f"(version {champion.version}{restored})"
    )
