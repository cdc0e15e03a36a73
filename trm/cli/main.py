"""The command line: the stages from their records, and what a person does around them. It imports nothing heavy."""

import inspect
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from trm.cli.inference import COMMANDS, OUTPUTS
from trm.utils.errors import DataError, InternalError, Interrupted, UserError, exit_code
from trm.stages.records import STAGES, Stage, producer
from trm.stages.runner import run_stage

app = typer.Typer(
    help="Train Tiny Recursive Models and let them solve puzzles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Published and tried experiments as whole params files.", no_args_is_help=True)
checkpoint_app = typer.Typer(help="Checkpoints of the published code.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(checkpoint_app, name="checkpoint")

STAGES_PANEL = "Stages (`dvc repro` runs all of them)"


def main() -> NoReturn:
    """Run the command line `trm`."""
    run_app(app, "trm")


def run_app(app: typer.Typer, name: str) -> NoReturn:
    """Run a command line called `name`; exit code 2 for a user's mistake, 1 for a fault, 128 + n after signal n."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_interrupted)
    try:
        app()
    except (UserError, InternalError, Interrupted) as error:
        _exit(exit_code(error), f"{name}: {error}")
    except BrokenPipeError:
        # Whoever read our output has seen enough (`trm inspect … | head`); leave nothing for the interpreter to flush.
        sys.stdout = None
        sys.exit(0)
    sys.exit(0)


def _raise_interrupted(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def _exit(code: int, message: str) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _stage_command(stage: Stage) -> Callable[..., None]:
    """A command whose options are `--params`, the stage's inputs and its output."""

    def command(params: str, **folders: str) -> None:
        from trm.stages.params import load_sections, load_tracking

        sections, tracking = load_sections(params, stage.sections), load_tracking(params)
        run_stage(stage, sections, {name: folders[name] for name in stage.inputs}, folders[stage.output], tracking)

    def option(name: str, default: str, text: str) -> inspect.Parameter:
        annotation = Annotated[str, typer.Option(help=text)]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    options = [option("params", "params.yaml", "The experiment's settings: a file, or the stage's sections as JSON.")]
    options += [
        option(name, f"{OUTPUTS / name}", f"Output of `trm {producer(name).name}`: folder or s3:// address.")
        for name in stage.inputs
    ]
    options.append(option(stage.output, f"{OUTPUTS / stage.output}", "The folder to write, or s3://<root>."))
    command.__signature__ = inspect.Signature(options)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    return command


for _stage in STAGES:
    app.command(_stage.name, help=_stage.help, rich_help_panel=STAGES_PANEL)(_stage_command(_stage))


@app.command("inspect")
def inspect_(
    path: Annotated[str, typer.Argument(help="What a stage wrote: a folder, or its s3:// address.")],
    puzzles: Annotated[int, typer.Option(min=0, help="Puzzles to draw.")] = 3,
) -> None:
    """Show what an artifact holds: counts, shapes, lineage and a few puzzles."""
    from trm.reporting.terminal.inspect import inspect_artifact
    from trm.storage.artifact_cache import local_copy

    inspect_artifact(local_copy(path), puzzles)


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.command("model")
def model_(
    params: Annotated[Path, typer.Option(help="The experiment's settings.")] = Path("params.yaml"),
    dataset: Annotated[
        Path,
        typer.Option(help="Output of `trm augment`; where it is not there yet, its sizes are those of the params."),
    ] = OUTPUTS / "dataset",
) -> None:
    """Show the network of the params: its tree, parameters, passes, depth and operations."""
    from rich.console import Console

    from trm.stages.params import load_params
    from trm.datasets.registry import expected_meta
    from trm.data.parquet import read_meta
    from trm.models.model_summary import describe_model

    settings = load_params(params)
    meta = read_meta(dataset) if dataset.is_dir() else expected_meta(settings.data)
    if meta is None:
        raise DataError(f"{dataset}: no such data set, and the params alone do not tell its sizes; run `trm augment`")
    Console(highlight=False, soft_wrap=True).print(describe_model(settings.model, meta))


@app.command("study")
def study_(
    name: Annotated[str, typer.Argument(help="A study that ships (`trm study list` names them), or a file of one.")],
    folder: Annotated[Path, typer.Option(help="Where studies lie, each in a folder of its name.")] = Path("studies"),
    params: Annotated[
        str | None, typer.Option(help="Whose section `tracking` counts, and no other; params.yaml, if it is there.")
    ] = None,
) -> None:
    """Train recipes that differ in little, several seeds each, and compare them in one report."""
    from trm.stages.params import load_tracking
    from trm.config.recipes import studies, summary
    from trm.studies.study import load_study, run_study

    if name == "list":
        for known, path in studies().items():
            print(f"{known:22} {summary(path)}")
        return
    place = folder / Path(name).stem
    study, title = load_study(name)
    if params is None:
        params = "params.yaml" if Path("params.yaml").is_file() else "{}"
    run_study(study, place, title, load_tracking(params))
    print((place / "report.md").read_text(encoding="utf-8"), end="")


@recipe_app.command("list")
def recipe_list() -> None:
    """The recipes, a line each."""
    from trm.config.recipes import ablations, recipes, summary

    for name, path in (recipes() | ablations()).items():
        print(f"{name:22} {summary(path)}")


@recipe_app.command("show")
def recipe_show(name: str) -> None:
    """Print a recipe: a whole params file."""
    from trm.config.recipes import recipe_text

    print(recipe_text(name), end="")


@recipe_app.command("use")
def recipe_use(
    name: str,
    params: Annotated[Path, typer.Option(help="The file to write.")] = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file with changes of your own.")] = False,
) -> None:
    """Write a recipe to params.yaml."""
    from trm.config.recipes import use_recipe

    use_recipe(name, params, force)
    print(f"{params} is now recipe {name}; `dvc repro` runs it")


@checkpoint_app.command("import")
def checkpoint_import(
    file: Annotated[Path, typer.Argument(help="A published checkpoint, beside its all_config.yaml.")],
    dataset: Annotated[
        Path | None, typer.Option(help="The data set it was trained on, where all_config.yaml does not tell it.")
    ] = None,
    model: Annotated[Path, typer.Option(help="The model folder to write.")] = OUTPUTS / "imported",
    reset_puzzle_emb: Annotated[
        bool, typer.Option("--reset-puzzle-emb", help="Start each puzzle of the data set at the table's mean row.")
    ] = False,
) -> None:
    """Turn a checkpoint of the published code into a model folder."""
    from trm.training.import_export import import_checkpoint

    digest = import_checkpoint(file, dataset, model, reset_puzzle_emb)
    print(f"{model} holds the model; `trm inspect {model}` shows what it is")
    print(f"to train it further: train.init_from: {{model: {model}, sha256: {digest}, reset_puzzle_emb: false}}")


class PublishedFormat(StrEnum):
    """What `trm checkpoint export` can write."""

    PUBLISHED = "published"


@checkpoint_app.command("export")
def checkpoint_export(
    model: Annotated[Path, typer.Argument(help="A model folder, or a checkpoint file.")] = OUTPUTS / "model",
    format: Annotated[PublishedFormat, typer.Option(help="Whose checkpoint.")] = PublishedFormat.PUBLISHED,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = OUTPUTS / "published",
) -> None:
    """Write a model's averaged weights as the published code does, all_config.yaml beside them."""
    from trm.training.import_export import export_checkpoint

    del format  # there is one
    print(f"{export_checkpoint(model, out)} holds the weights; `trm checkpoint import` reads them back")
