"""Fixtures: the server of `trm ui` with hand-made models, in a thread of this process."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.ui.folders import make_folders
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.reporting.terminal.demo import MODEL
from trm.serving.metrics import ServerMetrics
from trm.serving.server import address, create_server, listen
from trm.serving.service import ServedModel, ServerLimits
from trm.ui.app import create_ui
from trm.ui.library import Library

TOKEN = "the token of this session"


@dataclass(frozen=True)
class Session:
    """A running server."""

    url: str
    folder: Path
    library: Library
    client: httpx.Client
    """Sends the token."""


@contextmanager
def serving(folder: Path, named: Sequence[Path]) -> Iterator[Session]:
    """A server of the models below the `named` folders, and the included model."""
    limits, sock = ServerLimits(max_wait=0), listen("127.0.0.1", 0)

    def open_model(name: str, location: Path) -> ServedModel:
        return ServedModel(name, location, DEFAULT_INFERENCE, limits, "cpu", any_puzzle=False)

    library = Library(named, ("demo", MODEL), open_model)
    server = create_server(create_ui(library, limits, ServerMetrics(), TOKEN), grace=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        with httpx.Client(base_url=address(sock), headers=headers, timeout=60) as client:
            yield Session(address(sock), folder, library, client)
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
        for model in library.opened.values():
            model.close()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, model_params: ModelParams) -> Path:
    """Hand-made models of each dataset. Tests must not change it."""
    return make_folders(tmp_path_factory.mktemp("models"), model_params)


@pytest.fixture(scope="module")
def session(folders: Path) -> Iterator[Session]:
    """A server of the hand-made models."""
    with serving(folders, [folders]) as running:
        yield running
