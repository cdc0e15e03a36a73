"""The command `trm recipe suggest`. It imports nothing heavy."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.options import LOCAL
from trm.cli.summary import command_line
from trm.utils.file_formats import printable
from trm.utils.hints import run_all


def suggest_command(
    file: Annotated[Path, typer.Argument(help="The puzzles: a .csv or .jsonl file.", **LOCAL)],
    out: Annotated[Path, typer.Option(help="The file to write.", **LOCAL)] = Path("params.yaml"),
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for the training on this machine.")] = 10.0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file with changes of your own.")] = False,
) -> None:
    """Write settings for a file of your own puzzles, each with its reason; the machine is measured for some seconds."""
    from trm.config.recipes import kept_sections, write_params
    from trm.studies.suggestion import suggest

    kept_sections(out, force)  # raises before anything is measured
    suggestion = suggest(file, minutes)
    for warning in suggestion.warnings:
        print(printable(f"recipe suggest: warning: {warning}"), file=sys.stderr, flush=True)
    write_params(suggestion.text, out, force)
    for line in suggestion.summary:
        print(printable(f"  {line}"))
    command = run_all() if out == Path("params.yaml") else command_line("trm", "run", "--params", out)
    print(printable(f"{out} is a suggestion for {file}; `{command}` runs it"))
