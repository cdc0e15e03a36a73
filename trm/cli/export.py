"""The command `trm export`. It imports nothing heavy."""

import time
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.inference import MODEL, ModelLocation
from trm.cli.options import LOCAL, OUTPUTS, packages_of_extra
from trm.cli.summary import command_line, print_end


def export_command(
    model: ModelLocation = MODEL,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Output of `trm augment` whose test puzzles are answered for the comparison; default: random tokens.",
            **LOCAL,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.", **LOCAL)] = OUTPUTS / "exported",
    max_puzzles: Annotated[int, typer.Option(min=1, help="Puzzles that are answered for the comparison.")] = 500,
    max_steps: Annotated[int, typer.Option(min=1, max=4096, help="Supervision steps of the comparison.")] = 16,
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
    started = time.monotonic()
    if web is not None:
        with packages_of_extra("export", "trm export"):
            from trm.exporting.web import export_web

        size = export_web(model, dataset, web, runtime)
        print(f"{size / 1e6:.1f} MB; any static web server can serve the folder")
        following = command_line("python", "-m", "http.server", "--bind", "127.0.0.1", "--directory", web)
        print_end("export", web, time.monotonic() - started, following)
        return
    with packages_of_extra("export", "trm export"):
        from trm.exporting.export import export_model

    result = export_model(model, dataset, out, max_puzzles, max_steps)
    puzzles = f"{result.puzzles} test puzzles" if dataset is not None else f"{result.puzzles} rows of random tokens"
    print(f"{puzzles}, {max_steps} supervision steps:")
    for each, seconds in zip(result.parity, result.seconds, strict=True):
        right = "" if each.exact_accuracy is None else f", exact accuracy {each.exact_accuracy:.1%}"
        print(
            f"  {each.file}: {each.bytes / 1000:,.0f} kB, {1000 * seconds:.1f} ms per puzzle{right}, same answers "
            f"{each.same_answers:.1%}, halt logits differ by at most {each.max_logit_difference:.1e}"
        )
    print_end("export", out, time.monotonic() - started, command_line("trm", "inspect", out))
