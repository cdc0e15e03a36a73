"""Gauges of a long computation in the text format of Prometheus, on the port `$TRM_METRICS_PORT`.

One thread answers one request after the other. Whatever happens to it, the computation continues.
`prometheus_client.start_http_server` prints the errors of a connection and of a value into the log of the computation,
and answers every path.
"""

import os
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

PORT = "TRM_METRICS_PORT"
"""Environment variable with the port; unset or empty: no metrics."""
PATH = "/metrics"
TIMEOUT = 5.0
"""Seconds that a client may take for its request, and that the end of the computation waits for the thread."""


@dataclass(frozen=True)
class Gauge:
    """A number that is measured."""

    name: str
    description: str
    label: str = ""
    """Name of the label that distinguishes several values; "": there is one value."""


Values = Mapping[Gauge, float | Mapping[str, float]]
"""Gauge -> value, or value of the label -> value. A gauge without a value is left out."""


@contextmanager
def metrics_server(read: Callable[[], Values], program: str, what: str) -> Iterator[None]:
    """Context manager that serves metrics during the enclosed computation, if the port is set.

    A port that is in use or invalid, or a missing package, is one warning on stderr.

    Args:
        read: Returns the values. Another thread calls it at any time.
        program: Start of the warning.
        what: Name of the computation, which continues without metrics.
    """
    port = os.environ.get(PORT)
    server = _start(port, read, program, what) if port else None
    if server is None:
        yield
        return
    stopping = threading.Thread(target=_stop, args=(server,), daemon=True)
    try:
        yield
        stopping.start()
        stopping.join(TIMEOUT)
    finally:
        if not stopping.ident:  # without a wait after an interruption, which has to save the state
            stopping.start()


def _start(port: str, read: Callable[[], Values], program: str, what: str) -> "_Server | None":
    try:
        import prometheus_client  # noqa: F401

        server = _Server(int(port), read)
    except ModuleNotFoundError:
        problem = 'the package prometheus-client is not installed: pip install "trm[serve]"'
    except (ValueError, OverflowError):
        problem = f"${PORT} must be a number from 1 to 65535. Got {port!r}"
    except OSError as error:
        problem = f"port {port}: {error.strerror or error}"
    else:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        return server
    print(f"{program}: warning: no metrics ({problem}); {what} continues", file=sys.stderr, flush=True)
    return None


def _stop(server: "_Server") -> None:
    server.shutdown()
    server.server_close()


class _Server(socketserver.TCPServer):
    allow_reuse_address = True  # the processes of a worker restart on the same port

    def __init__(self, port: int, read: Callable[[], Values]) -> None:
        self.read = read
        super().__init__(("", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the base class
        """Ignore errors of a connection."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """Answer with all metrics."""
        from prometheus_client import CONTENT_TYPE_LATEST

        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        body = _text(self.server.read())
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401 - as in the base class
        """Print nothing."""


def _text(values: Values) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Metrics(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for gauge, value in values.items():
                family = GaugeMetricFamily(gauge.name, gauge.description, labels=[gauge.label] if gauge.label else None)
                for label, each in value.items() if isinstance(value, Mapping) else [("", value)]:
                    family.add_metric([label] if gauge.label else [], each)
                yield family

    registry = CollectorRegistry()
    registry.register(Metrics())
    return generate_latest(registry)
