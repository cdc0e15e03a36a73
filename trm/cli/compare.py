"""The command `trm compare`. It imports nothing heavy."""

from typing import Annotated

import typer

Location = Annotated[str, typer.Argument(help="An evaluation, the folder above it, or its model; or an s3:// URI.")]


def compare_command(first: Location, second: Location) -> None:
    """Compare two evaluations puzzle by puzzle.

    Exit code 0: the first is better, 3: no significant difference, 4: the first is worse.
    """
    from rich.console import Console

    from trm.evaluation.paired import EXIT_CODES
    from trm.reporting.terminal.compare import load_evaluation, print_comparison
    from trm.storage.artifact_cache import local_copy

    ours, theirs = (load_evaluation(local_copy(location)) for location in (first, second))
    paired = print_comparison(ours, theirs, Console(highlight=False))
    raise typer.Exit(EXIT_CODES[paired.verdict])
