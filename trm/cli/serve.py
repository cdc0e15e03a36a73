"""The command `trm serve`. It imports nothing heavy."""

import re
import sys
from typing import Annotated

import typer

from trm.cli.inference import MODEL
from trm.cli.options import model_location, typed_location, with_inference_options
from trm.config.base import Device, Precision
from trm.config.inference import InferenceConfig
from trm.utils.errors import UserError
from trm.utils.extras import packages_of_extra

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""A name in the API; a content key has 64 digits."""


@with_inference_options
def serve_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL...",
            help="Model folders, s3:// or hf:// URIs, champions (s3://<root>/champions/<dataset>), checkpoint files or "
            f"`demo`; the name in the API defaults to the last part of the path.  \\[default: {MODEL}]",
        ),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    config: InferenceConfig,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences computed at a time.")] = 64,
    max_queue: Annotated[int, typer.Option(min=1, help="Puzzles that may wait for a model, then 429.")] = 256,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds for which a batch waits for further puzzles.")
    ] = 5.0,
    max_work: Annotated[
        int, typer.Option(min=1, help="Supervision steps of a request: puzzles x votes x samples x max_steps.")
    ] = 16_384,
    max_bytes: Annotated[int, typer.Option(min=1, help="Size of the body of a request.")] = 1_000_000,
    follow: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two readings of a champion, which may name a new model.")
    ] = 60.0,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until a request fails with 504.")] = 60.0,
    device: Annotated[Device, typer.Option(help="Where the models are computed.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Compute dtype.")] = "float32",
) -> None:
    """Answer puzzles over HTTP: JSON, the Open Inference Protocol of KServe, Prometheus metrics.

    The options of test-time compute are the defaults of requests. The page /docs of the server describes the API.
    """
    with packages_of_extra("serve", "trm serve"):
        from trm.serving.app import create_app
    from trm.serving.champion import Follower, champion_model, is_champion
    from trm.serving.metrics import ServerMetrics
    from trm.serving.server import address, listen, run
    from trm.serving.service import ServedModel, ServerLimits

    named = [_named(text) for text in models or [MODEL]]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UserError(f"models must have different names. Got {', '.join(names)}; give NAME=MODEL")
    limits = ServerLimits(batch_size, max_queue, max_wait_ms / 1000, max_work, max_bytes, timeout)
    metrics = ServerMetrics()
    with listen(host, port) as sock:
        served = dict[str, ServedModel]()
        for name, location in named:
            uri = champion_model(location) if is_champion(location) else location
            served[name] = ServedModel(name, uri, config, limits, device, precision, metrics.count_batch)
            if is_champion(location):
                Follower(location, uri, served[name].load, follow)  # ends with the process
        url = address(sock)
        print(f"serve: {', '.join(names)} at {url}; API: {url}/docs; Ctrl-C stops", file=sys.stderr, flush=True)
        run(create_app(served, limits, metrics, host), sock, served)


def _named(text: str) -> tuple[str, str]:
    """Name and location of a model."""
    name, equals, location = text.partition("=")
    if not equals or "/" in name:
        name, location = "", text
    location = model_location(location) or location
    name = name or typed_location(location).rstrip("/").rpartition("/")[2].partition("@")[0]
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{text}: the name of a model must have letters, digits, '-', '_' and '.', at most 64. Got {name!r}; "
            "give NAME=MODEL"
        )
    return name, location
