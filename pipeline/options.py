"""Command-line options that several commands share, and the line that names the next command."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="Params file of the experiment.")]
ResultName = Annotated[
    str | None,
    typer.Argument(help="Run id, or content key of stage evaluate (first digits suffice). Default: last collected."),
]
ImageName = Annotated[str, typer.Option("--image", help="Image built by `make image`.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Dataset name. Default: that of params.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
GitHubOutputs = Annotated[bool, typer.Option("--github", help="Also set outputs of the GitHub workflow step.")]
RunId = Annotated[str, typer.Argument(help="Run id, as `submit` prints it.")]
PARAMS = Path("params.yaml")


def print_next(command: str, params: Path = PARAMS, purpose: str = "") -> None:
    """Print the next command on stderr, with the params file unless it is the default, and what it is for."""
    options = "" if params == PARAMS else f" --params {shlex.quote(str(params))}"
    print(f"next: python -m pipeline {command}{options}{purpose and f'   ({purpose})'}", file=sys.stderr)
