"""The commands that need neither DVC nor a checkout: `trm init` and `trm run`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.options import OUTPUTS, Overrides
from trm.cli.summary import print_end, print_summary
from trm.stages.records import Stage
from trm.utils.errors import UserError
from trm.utils.hints import run_all

DEFAULT_RECIPE = "sudoku-6x6"
PARAMS = Path("params.yaml")


def init_command(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe or an ablation; see `trm recipe list`.")] = (
        DEFAULT_RECIPE
    ),
) -> None:
    """Write a recipe to params.yaml in this folder. An existing file is never overwritten."""
    from trm.config.recipes import recipe_text
    from trm.utils.paths import replace_file

    text = recipe_text(recipe)
    if PARAMS.exists() or PARAMS.is_symlink():
        raise UserError(f"{PARAMS}: exists; `trm recipe use {recipe}` replaces it, or use an empty folder")
    replace_file(PARAMS, text)
    print(f"{PARAMS} is recipe {recipe}; `{run_all()}` runs it")


def run_command(
    params: Annotated[str, typer.Option(help="The params file.")] = str(PARAMS), overrides: Overrides = None
) -> None:
    """Run all stages of the params. Stages whose result is up to date are skipped; the outputs are in outputs/."""
    from trm.config.overrides import check_sections, parse_overrides
    from trm.config.params import Params
    from trm.stages.experiment import run
    from trm.stages.params import load_params, load_tracking

    started, changes = time.monotonic(), parse_overrides(overrides or [])
    check_sections(changes, tuple(Params.model_fields))
    settings = load_params(params, changes)
    settings = settings.model_copy(update={"tracking": load_tracking(settings, changes)})
    run(settings, OUTPUTS, _summarize)
    print_end("run", OUTPUTS, time.monotonic() - started, "trm visualize --index 0")


def _summarize(stage: Stage, folder: Path) -> None:
    if stage.output in ("model", "evaluation", "report", "exported"):
        print_summary(stage, folder, str(folder))


COMMANDS = {"init": init_command, "run": run_command}
"""Command name -> function."""
