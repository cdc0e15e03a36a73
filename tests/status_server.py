"""A real HTTPS server that plays the status server of Kubeflow Trainer."""

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/trm/trainjobs/trm-0/status"


@dataclass
class StatusServer:
    """Server of the controller: accepts one bearer token and keeps the reports."""

    folder: Path
    token: str = "first"
    code: int = 200
    reports: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    """Cleared: requests wait."""

    def __post_init__(self) -> None:
        self.open.set()
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        keys = ["-newkey", "rsa:2048", "-keyout", self.folder / "key", "-out", self.folder / "ca.crt"]
        subprocess.run(["openssl", "req", "-x509", "-nodes", *keys, *names], check=True, capture_output=True)
        status = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status.open.wait(30)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                accepted = self.headers["Authorization"] == f"Bearer {status.token}" and self.path == PATH
                if accepted and status.code == 200:
                    status.reports.append(body["trainerStatus"])
                else:
                    status.refused += 1
                self.send_response(status.code if accepted else 403)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "ca.crt", self.folder / "key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"https://localhost:{self._http.server_address[1]}{PATH}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def variables(self) -> dict[str, str]:
        """Return the variables that the controller gives to a pod, and write the files."""
        (self.folder / "token").write_text(f"{self.token}\n")
        values = {"URL": self.url, "CA_CERT": str(self.folder / "ca.crt"), "TOKEN": str(self.folder / "token")}
        return {f"KUBEFLOW_TRAINER_SERVER_{name}": value for name, value in values.items()}


@pytest.fixture
def status_server(tmp_path: Path) -> Iterator[StatusServer]:
    """The server."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    server = StatusServer(tmp_path)
    yield server
    server.close()
