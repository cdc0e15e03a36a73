"""The command `trm verify`. It imports nothing heavy."""

from typing import Annotated

import typer

from trm.cli.options import model_location


def verify_command(
    location: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            callback=model_location,
            help="An artifact, a training state, a folder with any number of them, or the s3:// URI of one of these.",
        ),
    ],
) -> None:
    """Verify the SHA-256 of every file of artifacts and training states.

    Exit code 0: everything is undamaged, 1: a file is missing or damaged; its line ends with the remedy.
    """
    from trm.stages.verification import verify
    from trm.utils.file_formats import printable

    count = damaged = 0
    for each in verify(location):
        count, damaged = count + 1, damaged + bool(each.problems)
        for problem in each.problems:
            print(printable(f"DAMAGED {problem}"), flush=True)
        if not each.problems and each.manifest is not None:
            files = each.manifest["files"].values()
            size = sum(entry["bytes"] for entry in files)
            counts = f"{len(files)} file{'s' * (len(files) != 1)}, {size:,} bytes"
            print(printable(f"ok      {each.location}: {counts}"), flush=True)
    print(f"{count} verified, {damaged} damaged")
    if damaged:
        raise typer.Exit(1)
