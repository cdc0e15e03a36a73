"""Fixtures: the server of `trm serve` with the included model, in a thread of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from trm.config.inference import DEFAULT_INFERENCE
from trm.reporting.terminal.demo import MODEL
from trm.serving.app import create_app
from trm.serving.metrics import ServerMetrics
from trm.serving.server import address, create_server, listen
from trm.serving.service import ServedModel, ServerLimits


@contextmanager
def serving(limits: ServerLimits) -> Iterator[httpx.Client]:
    """A client of a server with these limits."""
    metrics, sock = ServerMetrics(), listen("127.0.0.1", 0)
    model = ServedModel("demo", MODEL, DEFAULT_INFERENCE, limits, "cpu", observe=metrics.count_batch)
    server = create_server(create_app({"demo": model}, limits, metrics))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        with httpx.Client(base_url=address(sock), timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
        model.close()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of a server with the default limits."""
    with serving(ServerLimits(max_wait=0)) as client:
        yield client
