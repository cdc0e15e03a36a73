"""A server at the address of S3 that misbehaves as servers and proxies in the field do."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = b"<!DOCTYPE html><html><head><title>Console</title><script src=a async></script></head>&display</html>"
XHTML = b"<html><head><title>Console</title></head><body></body></html>"


@dataclass(frozen=True)
class Answer:
    """A response to every request, or to the requests with the given methods."""

    status: int
    body: bytes
    content_type: str = "text/html"
    methods: tuple[str, ...] = ("GET", "PUT", "POST", "DELETE")
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    """Only the first requests get this response; None: all of them."""


def refused(code: str, status: int, message: str, *methods: str) -> Answer:
    """An error in the form of S3."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode(), "application/xml", methods or ("GET", "PUT", "POST", "DELETE"))


@contextmanager
def serve(
    answers: list[Answer] | None = None,
    ignores: tuple[str, ...] = (),
    certificate: Path | None = None,
    clock: float = 0.0,
) -> Iterator[tuple[str, list[str]]]:
    """Serve objects in memory, after the given answers; yields the URL and the list of requests.

    answers: each one replies to the requests with its methods. ignores: request headers without effect.
    certificate: file with a certificate and its key; with it the server uses TLS.
    clock: seconds by which the server's clock is ahead.
    """
    objects: dict[str, bytes] = {}
    requests: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((time.time() if timestamp is None else timestamp) + clock)

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requests.append(f"{self.command} {self.path}")
            for answer in answers or ():
                if self.command in answer.methods and (answer.times is None or len(requests) <= answer.times):
                    self._send(answer)
                    return
            with lock:
                self._send(self._stored(body))

        def _stored(self, body: bytes) -> Answer:
            url = urlsplit(self.path)
            path, query = unquote(url.path), parse_qs(url.query, keep_blank_values=True)
            if self.command == "PUT":
                return self._put(path, body)
            if self.command == "POST":  # the single part of an upload is already stored at its path
                kind, upload = ("Initiate", "<UploadId>1</UploadId>") if "uploads" in query else ("Complete", "")
                text = f"<{kind}MultipartUploadResult>{upload}<ETag>1</ETag></{kind}MultipartUploadResult>"
                return Answer(200, text.encode(), "application/xml")
            if self.command == "DELETE":
                objects.pop(path, None)
                return Answer(204, b"")
            if "list-type" in query or "uploads" in query:
                kind = "ListBucketResult" if "list-type" in query else "ListMultipartUploadsResult"
                prefix = f"{path.rstrip('/')}/{query.get('prefix', [''])[0]}"
                found = {key.split("/", 2)[2]: data for key, data in sorted(objects.items()) if key.startswith(prefix)}
                items = "".join(
                    f"<Contents><Key>{key}</Key><Size>{len(data)}</Size></Contents>" for key, data in found.items()
                )
                text = f"<{kind}><IsTruncated>false</IsTruncated>{items}</{kind}>"
                return Answer(200, text.encode(), "application/xml")
            if path not in objects:
                return refused("NoSuchKey", 404, "absent")
            return Answer(200, objects[path], "binary/octet-stream", headers={"ETag": _tag(objects[path])})

        def _put(self, path: str, body: bytes) -> Answer:
            headers = {name: value for name, value in self.headers.items() if name not in ignores}
            match = headers.get("If-Match")
            if match and path not in objects:
                return refused("NoSuchKey", 404, "absent")
            if (headers.get("If-None-Match") and path in objects) or (match and match != _tag(objects[path])):
                return refused("PreconditionFailed", 412, "exists")
            objects[path] = body
            crc = headers.get("x-amz-checksum-crc32")
            return Answer(200, b"", headers={"ETag": _tag(body)} | ({"x-amz-checksum-crc32": crc} if crc else {}))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.body:
                self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - names of the base class

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that speaks no TLS, or closed the connection

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}", requests
        server.shutdown()


def _tag(data: bytes) -> str:
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'
