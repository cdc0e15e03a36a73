"""The command `trm export`: the optional stage, any other model, or a web page. It imports nothing heavy."""

import time
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.inference import DATASET, MODEL, ModelLocation
from trm.cli.options import LOCAL, OUTPUTS, Overrides
from trm.cli.stage_commands import run_from_options
from trm.cli.summary import command_line, print_end
from trm.config.evaluation import ExportParams
from trm.stages.records import producer
from trm.utils.errors import UserError
from trm.utils.extras import packages_of_extra
from trm.utils.paths import local_path

STAGE = producer("exported")
DEFAULTS = ExportParams()


def export_command(
    params: Annotated[
        str | None,
        typer.Option(
            help="Run stage `export` of the experiment: the params file, or section `export` as JSON. Default: the "
            "other options."
        ),
    ] = None,
    overrides: Overrides = None,
    model: ModelLocation = MODEL,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Output of `trm augment`, a folder or s3:// URI, whose test puzzles are answered for the comparison; "
            "default: random tokens, or with --params outputs/dataset.",
        ),
    ] = None,
    exported: Annotated[
        str, typer.Option("--exported", "--out", help="The folder to write; with --params also s3://<root>.")
    ] = f"{OUTPUTS / STAGE.output}",
    max_puzzles: Annotated[
        int | None, typer.Option(min=1, help=f"Puzzles of the comparison; default: {DEFAULTS.max_puzzles}.")
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help=f"Supervision steps of the comparison; default: {DEFAULTS.max_steps}."),
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(
            help="Write only a static web page to this folder, which solves puzzles in the browser; test puzzles of "
            "--dataset, or generated puzzles, are its examples.",
            **LOCAL,
        ),
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="The npm package of ONNX Runtime Web; default: npm fetches it.", **LOCAL)
    ] = None,
) -> None:
    """Write a model as ONNX files, in float32 and INT8, and as a program of torch.export; or as a web page.

    The answers of the files are compared with those of the model.
    """
    given = {name: value for name, value in (("max_puzzles", max_puzzles), ("max_steps", max_steps)) if value}
    if params is not None:
        if given or web or runtime:
            name = next(iter(given), "web" if web else "runtime")
            remedy = f"use --set export.{name}" if given else "leave --params out"
            raise UserError(f"--{name.replace('_', '-')} has no effect on stage export; {remedy}")
        folders = {"model": model, "dataset": dataset or DATASET, STAGE.output: exported}
        run_from_options(STAGE, params, overrides, folders)
    elif overrides:
        raise UserError(f"--set {overrides[0]} has no effect without --params; use the other options")
    elif web is not None:
        _export_web(model, None if dataset is None else local_path(dataset), web, runtime)
    else:
        _export_model(model, dataset, local_path(exported), ExportParams.model_validate(given))


def _export_web(model: str, dataset: Path | None, web: Path, runtime: Path | None) -> None:
    started = time.monotonic()
    with packages_of_extra("export", "trm export"):
        from trm.exporting.web import export_web

    size = export_web(model, dataset, web, runtime)
    print(f"{size / 1e6:.1f} MB; any static web server can serve the folder")
    following = command_line("python", "-m", "http.server", "--bind", "127.0.0.1", "--directory", web)
    print_end("export", web, time.monotonic() - started, following)


def _export_model(model: str, dataset: str | None, out: Path, config: ExportParams) -> None:
    started = time.monotonic()
    with packages_of_extra("export", "trm export"):
        from trm.exporting.export import export_model

    result = export_model(model, dataset, out, config)
    puzzles = f"{result.puzzles} test puzzles" if dataset is not None else f"{result.puzzles} rows of random tokens"
    print(f"{puzzles}, {config.max_steps} supervision steps:")
    for each, seconds in zip(result.parity, result.seconds, strict=True):
        right = "" if each.exact_accuracy is None else f", exact accuracy {each.exact_accuracy:.1%}"
        print(
            f"  {each.file}: {each.bytes / 1000:,.0f} kB, {1000 * seconds:.1f} ms per puzzle{right}, same answers "
            f"{each.same_answers:.1%}, halt logits differ by at most {each.max_logit_difference:.1e}"
        )
    print_end("export", out, time.monotonic() - started, command_line("trm", "inspect", out))
