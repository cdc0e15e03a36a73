"""The command `trm ui`. It imports nothing heavy."""

import os
import secrets
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from trm.cli.options import DEMO, local_model, with_inference_options
from trm.config.base import Device, Precision
from trm.config.inference import InferenceConfig
from trm.utils.extras import packages_of_extra

TIMEOUT = 600.0
"""Seconds until a request that is not a trace fails; a trace can be stopped on the page."""
GRACE = 1
"""Seconds for running requests after Ctrl-C."""


@with_inference_options
def ui_command(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER...",
            help="Folders below which models and their datasets lie, for example `outputs`; the page reads nothing "
            "else. The included model can always be chosen.",
        ),
    ] = None,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    config: InferenceConfig,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser, if there is a display.")
    ] = True,
    device: Annotated[Device, typer.Option(help="Where the models are computed.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Compute dtype.")] = "float32",
) -> None:
    """Show models solving puzzles on a page of this machine: draw a puzzle, watch every pass, compare two settings.

    The options of test-time compute are the defaults of the page. The printed address contains a token: whoever has it
    can use the page from this machine.
    """
    with packages_of_extra("serve", "trm ui"):
        from trm.ui.app import create_ui
    from trm.serving.metrics import ServerMetrics
    from trm.serving.server import address, listen, run
    from trm.serving.service import ServedModel, ServerLimits
    from trm.ui.library import Library

    limits, metrics = ServerLimits(timeout=TIMEOUT), ServerMetrics()

    def open_model(name: str, folder: Path) -> ServedModel:
        return ServedModel(name, folder, config, limits, device, precision, metrics.count_batch, any_puzzle=False)

    named = [local_model(folder) for folder in folders or [] if folder != DEMO]
    with listen("127.0.0.1", port) as sock:
        library = Library(named, (DEMO, local_model(DEMO)), open_model)
        token = secrets.token_urlsafe(32)
        url = f"{address(sock)}/#token={token}"
        print(f"ui: {url}; Ctrl-C stops", file=sys.stderr, flush=True)
        if browser and _has_display():
            webbrowser.open(url)
        run(create_ui(library, limits, metrics, token), sock, library.opened, GRACE)


def _has_display() -> bool:
    """Whether a browser has a window. Without one, a text browser would occupy the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
