"""The command `trm`: the stages, built from their records, and further commands. It imports nothing heavy."""

import difflib
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from trm.cli import experiment
from trm.cli.arc_tasks import solve_arc_command
from trm.cli.compare import compare_command
from trm.cli.doctor import doctor_command
from trm.cli.export import export_command
from trm.cli.hub import hub_app
from trm.cli.inference import COMMANDS
from trm.cli.new_dataset import new_dataset_command
from trm.cli.options import LOCAL, OUTPUTS, Overrides, PuzzleCommand, local_model, model_location, typed_message
from trm.cli.serve import serve_command
from trm.cli.stage_commands import stage_command
from trm.cli.suggest import suggest_command
from trm.cli.summary import command_line, folder_options, print_end
from trm.cli.ui import ui_command
from trm.cli.verify import verify_command
from trm.config.base import INPUT
from trm.stages.records import REQUIRED_STAGES
from trm.utils.errors import DataError, InternalError, Interrupted, UserError, exit_code
from trm.utils.file_formats import printable, shorten
from trm.utils.hints import run_all
from trm.utils.output import flush_output, prepare_streams
from trm.utils.process_settings import apply_process_settings
from trm.utils.stop_signals import handled_signals

app = typer.Typer(
    help="Train, evaluate and run Tiny Recursive Models.", no_args_is_help=True, pretty_exceptions_enable=False
)
recipe_app = typer.Typer(help="List, show and use recipes: complete params files of experiments.", no_args_is_help=True)
checkpoint_app = typer.Typer(help="Import and export checkpoints in the published format.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(hub_app, name="hub")

STAGES_PANEL = "Stages (`trm run` or `dvc repro` runs all of them)"


def main() -> NoReturn:
    """Run the command line `trm`."""
    run_app(partial(app, prog_name="trm"), "trm")


def run_app(app: Callable[..., object], name: str) -> NoReturn:
    """Run a command line and exit: code 2 for user errors, 1 for internal errors, 128 + n after signal n.

    name: start of error messages.
    """
    for number in handled_signals():
        signal.signal(number, _raise_interrupted)
    apply_process_settings()
    prepare_streams()
    code = None
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # here, where its errors are reported
    except (UserError, InternalError, Interrupted) as error:
        # Errors of options name the command themselves.
        _exit(exit_code(error), str(error) if str(error).startswith(f"{name} ") else f"{name}: {error}")
    except BrokenPipeError:  # the reader has closed the pipe (`trm inspect … | head`)
        sys.exit(0)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # typer and rich exit with 1 after this error
            raise
    except OSError as error:
        from trm.utils.os_errors import explain

        explained = explain(error)
        _exit(exit_code(explained), f"{name}: {explained}")
    except Exception as error:
        if hasattr(error, "format_message"):  # typer does not export the class
            _report_usage(error, name)
        _report_fault(name, error)
    finally:
        flush_output()
    sys.exit(code if isinstance(code, int) else 0)


def _report_usage(error: Any, name: str) -> NoReturn:  # noqa: ANN401 - typer's class
    """Report a wrong option, argument or command in one line; a command group without arguments prints its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    if hasattr(error, "possibilities"):  # those that are not close mislead: --set for --resume
        error.possibilities = difflib.get_close_matches(error.option_name, error.possibilities or (), cutoff=0.75)
    command = error.ctx.command_path if error.ctx else name
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    if isinstance(error.__context__, ValidationError):
        (problem, *_) = error.__context__.errors()
        expected = problem["msg"].removeprefix(INPUT)
        if expected != problem["msg"]:
            message = f"{error.param.opts[0]} must be {expected}. Got {problem['input']}"
    _exit(2, f"{command}: {message}; see `{command} --help`")


def _report_fault(name: str, error: Exception) -> NoReturn:
    """Report an error that nothing else handles: a fault of the program, or of a library that it uses."""
    if os.environ.get("TRM_TRACEBACK"):
        raise error
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in str(error):
        _exit(1, f"{name}: the memory is not sufficient ({error}); lower the batch size or set train.micro_batch_size")
    _exit(1, f"{name}: {kind}: {error}; this is a fault of the program: run it with TRM_TRACEBACK=1 and report it")


def _raise_interrupted(number: int, frame: FrameType | None) -> None:
    if frame and "llvmlite" in frame.f_code.co_filename:
        # Called from C, which would print the error and go on. The signal comes again in a moment.
        Timer(0.05, os.kill, (os.getpid(), number)).start()
        return
    raise Interrupted(number)


def _exit(code: int, message: str) -> NoReturn:
    # Text from files and servers is shown, not executed by the terminal.
    with suppress(OSError):
        print(printable(shorten(" ".join(typed_message(message).split()))), file=sys.stderr, flush=True)
    sys.exit(code)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"trm {version('trm')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `trm` itself."""
    del version  # `_print_version` has handled it


for _stage in REQUIRED_STAGES:
    app.command(_stage.name, help=_stage.help, rich_help_panel=STAGES_PANEL)(stage_command(_stage))
app.command("export", rich_help_panel=STAGES_PANEL)(export_command)


for _name, _command in experiment.COMMANDS.items():
    app.command(_name)(_command)
for _name, _command in COMMANDS.items():
    app.command(_name, cls=PuzzleCommand if _name in ("solve", "visualize") else None)(_command)


@app.command("inspect")
def inspect_command(
    path: Annotated[
        str,
        typer.Argument(
            callback=model_location,
            help="A file or folder that `trm` writes, raw files, the s3:// URI of an artifact, or `demo`.",
        ),
    ],
    puzzles: Annotated[int, typer.Option(min=0, help="Number of puzzles to print, per split.")] = 3,
) -> None:
    """Print the contents of an output: counts, shapes, metrics, lineage and a few puzzles."""
    from trm.reporting.terminal.inspect import inspect_artifact
    from trm.storage.artifact_cache import local_copy

    inspect_artifact(local_copy(path), puzzles)


app.command("solve-arc")(solve_arc_command)
app.command("serve")(serve_command)
app.command("ui")(ui_command)
app.command("compare")(compare_command)
app.command("verify")(verify_command)
app.command("doctor")(doctor_command)
app.command("new-dataset")(new_dataset_command)


@app.command("model-summary")
def model_summary_command(
    params: Annotated[Path, typer.Option(help="The params file.", **LOCAL)] = Path("params.yaml"),
    overrides: Overrides = None,
    dataset: Annotated[
        Path,
        typer.Option(help="Output of `trm augment`; if it does not exist, sizes are derived from the params.", **LOCAL),
    ] = OUTPUTS / "dataset",
    model: Annotated[
        str | None,
        typer.Option(callback=model_location, help="A trained model instead of the params, as in `trm solve`."),
    ] = None,
) -> None:
    """Print the network of the params, or of a model: modules, parameters, passes, depth, floating-point operations."""
    from rich.console import Console

    from trm.config.overrides import parse_overrides
    from trm.data.parquet import read_meta
    from trm.datasets.registry import expected_meta
    from trm.models.model_summary import describe_model
    from trm.stages.params import load_params
    from trm.storage.artifact_cache import local_copy
    from trm.training.checkpoint import read_settings

    if model is not None:
        header = read_settings(local_copy(model))
        network, meta = header.model, header.meta
    else:
        settings = load_params(params, parse_overrides(overrides or []))
        network = settings.model
        meta = read_meta(dataset) if dataset.is_dir() else expected_meta(settings.data)
    if meta is None:
        raise DataError(f"{dataset}: no such dataset, and its sizes do not follow from the params; run `trm augment`")
    Console(highlight=False, soft_wrap=True).print(describe_model(network, meta))


@app.command("study")
def study_command(
    name: Annotated[
        str, typer.Argument(help="A study that ships with the package, a study file, or `list` to list the studies.")
    ],
    folder: Annotated[Path, typer.Option(help="The parent of the study's output folder.", **LOCAL)] = Path("studies"),
    params: Annotated[
        str | None,
        typer.Option(help="A params file, of which only section `tracking` is used; default: params.yaml, if present."),
    ] = None,
) -> None:
    """Train variations of a recipe with several seeds each, and compare them in a report."""
    from rich.console import Console

    from trm.config.recipes import studies, summary
    from trm.reporting.terminal.artifact_summary import study
    from trm.stages.params import load_tracking
    from trm.studies.study import load_study, run_study, runs_of

    if name == "list":
        _print_summaries({known: summary(path) for known, path in studies().items()})
        return
    started, out = time.monotonic(), folder / Path(name).stem
    settings, title = load_study(name)
    if params is None:
        params = "params.yaml" if Path("params.yaml").is_file() else "{}"
    run_study(settings, out, title, load_tracking(params))
    Console(highlight=False).print(study(out))
    first, *others = runs_of(settings, out)
    following = ("compare", first.folder, others[0].folder) if others else ("inspect", out)
    print_end("study", out / "report.md", time.monotonic() - started, command_line("trm", *following))


def _print_summaries(summaries: dict[str, str]) -> None:
    from rich.console import Console

    from trm.reporting.terminal.tables import facts

    Console(highlight=False).print(facts("", summaries.items()))


RecipeName = Annotated[str, typer.Argument(help="Name of a recipe or an ablation; see `trm recipe list`.")]


@recipe_app.command("list")
def recipe_list() -> None:
    """List the recipes and ablations."""
    from trm.config.recipes import ablations, recipes, summary

    _print_summaries({name: summary(path) for name, path in (recipes() | ablations()).items()})


@recipe_app.command("show")
def recipe_show(name: RecipeName) -> None:
    """Print a recipe."""
    from trm.config.recipes import recipe_text

    print(recipe_text(name), end="")


@recipe_app.command("use")
def recipe_use(
    name: RecipeName,
    params: Annotated[Path, typer.Option(help="The file to write.", **LOCAL)] = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file with changes of your own.")] = False,
) -> None:
    """Write a recipe to params.yaml; its sections `tracking` and `cluster` are kept."""
    from trm.config.recipes import use_recipe

    use_recipe(name, params, force)
    print(f"{params} is now recipe {name}; `{run_all()}` runs it")


recipe_app.command("suggest")(suggest_command)


@checkpoint_app.command("import")
def checkpoint_import(
    file: Annotated[
        Path, typer.Argument(help="A published checkpoint, with all_config.yaml in the same folder.", **LOCAL)
    ],
    dataset: Annotated[
        Path | None,
        typer.Option(help="The dataset it was trained on; required if all_config.yaml does not name it.", **LOCAL),
    ] = None,
    model: Annotated[Path, typer.Option(help="The model folder to write.", **LOCAL)] = OUTPUTS / "imported",
    reset_puzzle_emb: Annotated[
        bool, typer.Option("--reset-puzzle-emb", help="Initialize all rows of the puzzle embedding with the mean row.")
    ] = False,
) -> None:
    """Convert a published checkpoint to a model folder."""
    from trm.training.import_export import import_checkpoint

    started = time.monotonic()
    digest = import_checkpoint(file, dataset, model, reset_puzzle_emb)
    start = f"{{model: {model}, sha256: {digest}, reset_puzzle_emb: false}}"
    print(f"  train.init_from: {start} continues its training")
    following = ["inspect", model]
    if dataset is not None:
        following = ["visualize", *folder_options({"model": str(model), "dataset": str(dataset)})]
    print_end("checkpoint import", model, time.monotonic() - started, command_line("trm", *following))


class PublishedFormat(StrEnum):
    """The formats of `trm checkpoint export`."""

    PUBLISHED = "published"


@checkpoint_app.command("export")
def checkpoint_export(
    model: Annotated[
        Path, typer.Argument(help="A model folder, a checkpoint file, or `demo`.", parser=local_model, metavar="PATH")
    ] = OUTPUTS / "model",
    format: Annotated[PublishedFormat, typer.Option(help="The format to write.")] = PublishedFormat.PUBLISHED,
    out: Annotated[Path, typer.Option(help="The folder to write.", **LOCAL)] = OUTPUTS / "published",
) -> None:
    """Export the EMA weights of a model in the published format, with all_config.yaml in the same folder."""
    from trm.training.import_export import export_checkpoint

    del format  # there is only one
    started = time.monotonic()
    file = export_checkpoint(model, out)
    following = command_line("trm", "checkpoint", "import", file)
    print_end("checkpoint export", file, time.monotonic() - started, following)
