"""The command `trm doctor`. It imports nothing heavy."""

from typing import Annotated

import typer

from trm.cli.options import Overrides


def doctor_command(
    params: Annotated[str, typer.Option(help="The params file.")] = "params.yaml", overrides: Overrides = None
) -> None:
    """Check this machine, and whether the params can run on it: versions, folders, devices, memory.

    Exit code 0: nothing is wrong, 1: a line that starts with PROBLEM ends with the remedy.
    """
    from trm.config.overrides import parse_overrides
    from trm.stages.doctor import diagnose
    from trm.stages.params import load_params
    from trm.utils.findings import print_findings

    changes = parse_overrides(overrides or [])
    problems = print_findings(diagnose(lambda: load_params(params, changes)))
    if problems:
        raise typer.Exit(1)
