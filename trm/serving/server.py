"""Runs the HTTP server until a signal stops it."""

import logging
import os
import socket
import sys
from collections.abc import Mapping

import uvicorn
from fastapi import FastAPI

from trm.serving.service import ServedModel
from trm.utils.errors import UserError

GRACE = 30
"""Seconds in which running requests end after a signal."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address. port: 0 takes a free one. Raises `UserError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot listen at {host}:{port} ({reason}); give another --host or --port") from None


def address(sock: socket.socket) -> str:
    """The URL of the socket."""
    host, port, *_ = sock.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def create_server(app: FastAPI, grace: int = GRACE) -> uvicorn.Server:
    """The server of an application. It prints no line for each request."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace,
            lifespan="off",
            ws="none",
        )
    )


def run(app: FastAPI, sock: socket.socket, models: Mapping[str, ServedModel], grace: int = GRACE) -> None:
    """Serve until SIGINT or SIGTERM; then end running requests. The signal is raised again afterwards.

    grace: seconds for running requests.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that close their connection
    try:
        create_server(app, grace).run(sockets=[sock])
    finally:
        for model in models.values():
            model.close()
