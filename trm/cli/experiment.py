"""The commands that need neither DVC nor a checkout: `trm init` and `trm run`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.inference import OUTPUTS
from trm.cli.options import Overrides
from trm.cli.summary import print_summary
from trm.stages.records import STAGES
from trm.utils.errors import UserError
from trm.utils.hints import run_all
from trm.utils.launch import world_size

DEFAULT_RECIPE = "sudoku-6x6"
PARAMS = Path("params.yaml")


def init_command(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe or an ablation; see `trm recipe list`.")] = (
        DEFAULT_RECIPE
    ),
) -> None:
    """Write a recipe to params.yaml in this folder. An existing file is never overwritten."""
    from trm.config.recipes import recipe_text

    text = recipe_text(recipe)
    try:
        with PARAMS.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{PARAMS}: exists; `trm recipe use {recipe}` replaces it, or use an empty folder") from None
    print(f"{PARAMS} is recipe {recipe}; `{run_all()}` runs it")


def run_command(
    params: Annotated[str, typer.Option(help="The params file.")] = str(PARAMS), overrides: Overrides = None
) -> None:
    """Run all stages of the params. Stages whose result is up to date are skipped; the outputs are in outputs/."""
    from trm.config.overrides import check_sections, parse_overrides
    from trm.config.params import Params
    from trm.stages.content_keys import content_keys
    from trm.stages.params import load_params, load_tracking
    from trm.stages.runner import is_complete, run_stage

    if world_size() > 1:
        raise UserError("trm run is a single process; start torchrun with `-m trm train` or `-m trm evaluate`")
    changes = parse_overrides(overrides or [])
    check_sections(changes, tuple(Params.model_fields))
    settings, tracking = load_params(params, changes), load_tracking(params, changes)
    keys = content_keys(settings)
    for number, stage in enumerate(STAGES, 1):
        out, name = OUTPUTS / stage.output, f"{stage.name} ({number} of {len(STAGES)})"
        if is_complete(out, stage, keys[stage.name]):
            print(f"{name}: skipped, {out} is up to date", file=sys.stderr, flush=True)
        else:
            print(f"{name}: runs", file=sys.stderr, flush=True)
            sections = {name: getattr(settings, name) for name in stage.sections}
            run_stage(stage, sections, {name: str(OUTPUTS / name) for name in stage.inputs}, str(out), tracking)
        if stage.output in ("model", "evaluation", "report"):
            print_summary(stage, out, str(out))
    print("next: trm visualize --index 0", flush=True)


COMMANDS = {"init": init_command, "run": run_command}
"""Command name -> function."""
