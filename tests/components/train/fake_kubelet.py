"""Log endpoint of a kubelet, for the API server: HTTPS, lines with timestamps, connections that break on demand."""

import ssl
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from tests.apiserver import ApiServer


class Log:
    """Output of a container, collected line by line."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.lines: list[tuple[datetime, bytes]] = []
        self.ended = False
        self._pipe = pipe
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the output is complete."""
        self._thread.join(10)

    def text(self) -> str:
        return b"".join(line for _, line in self.lines).decode()

    def _collect(self) -> None:
        for line in self._pipe:
            self.lines.append((datetime.now(UTC), line))
        self._pipe.close()
        self.ended = True


class Kubelet:
    """Serves `logs` (pod name -> log) at `port`."""

    def __init__(self, server: ApiServer) -> None:
        self.logs: dict[str, Log] = {}
        self.cut_after: list[int] = []
        """Number of bytes after which each of the next streaming connections is closed."""
        self.requests: list[str] = []
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                kubelet.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate, server.key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests.append(request.path)
        log = self.logs.get(url.path.split("/")[3])
        if log is None or query.get("previous") == "true":
            request.send_error(400, "no such container")
            return
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        left = self.cut_after.pop(0) if query.get("follow") == "true" and self.cut_after else None
        try:
            self._send(request, log, query, left)
        except OSError:
            request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, log: Log, query: dict[str, str], left: int | None) -> None:
        since = datetime.fromisoformat(query["sinceTime"]) if "sinceTime" in query else None
        place = max(len(log.lines) - int(query["tailLines"]), 0) if "tailLines" in query else 0
        while True:
            ended = log.ended
            while place < len(log.lines):
                when, line = log.lines[place]
                place += 1
                if since is not None and when < since:
                    continue
                data = (f"{when:%Y-%m-%dT%H:%M:%S.%f}000Z ".encode() if "timestamps" in query else b"") + line
                if left is not None and len(data) >= left:
                    request.wfile.write(b"%x\r\n%s\r\n" % (left, data[:left]) if left else b"")
                    request.wfile.flush()
                    request.close_connection = True
                    request.connection.close()
                    return
                left = left and left - len(data)
                request.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            request.wfile.flush()
            if ended or query.get("follow") != "true":
                request.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.05)
