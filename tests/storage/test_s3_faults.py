"""Artifacts in S3 with a real server and injected faults: lost responses, corrupted bytes, a full disk."""

import io
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from botocore.awsrequest import AWSPreparedRequest

from pipeline.local.s3_server import SeaweedFS
from tests.seaweed import objects, on_event
from tests.storage.helpers import FILES, address_of, digests, left, version
from trm.storage import s3, s3_chunks, s3_client, s3_errors
from trm.storage.artifacts import MANIFEST
from trm.utils.errors import UserError


@contextmanager
def losing_responses(
    seaweed: SeaweedFS, to: Callable[[bytes], bool], share: float = 1.0
) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy for the server that breaks the connection of the first request for which `to` is true, before the last
    `share` of the response is sent. Yields its URL, and the first lines of that request and its response.
    """
    host, _, port = address_of(seaweed).partition(":")
    lost: list[bytes] = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as server:
                answers = server.makefile("rb")
                while line := self.rfile.readline():
                    wait, body = self._forward(line, server)
                    if wait:  # the server reads the head before the body
                        answer = self._answer(answers)
                        self.wfile.write(answer)
                        if b" 100 " not in answer.splitlines()[0]:
                            continue
                    server.sendall(self.rfile.read(body))
                    answer = self._answer(answers)
                    if to(line) and not lost:
                        lost.append(line + answer.splitlines()[0])
                        self.wfile.write(answer[: int(len(answer) * (1 - share))])
                        return
                    self.wfile.write(answer)

        def _forward(self, line: bytes, server: socket.socket) -> tuple[bool, int]:
            head, body, wait = line, 0, False
            while line.strip():
                line = self.rfile.readline()
                head += line
                name, _, value = line.lower().partition(b":")
                body = int(value) if name == b"content-length" else body
                wait = wait or name == b"expect"
            server.sendall(head)
            return wait, body

        def _answer(self, answers: BinaryIO) -> bytes:
            answer, body = b"", 0
            while not answer.endswith(b"\r\n\r\n"):
                line = answers.readline()
                name, _, value = line.lower().partition(b":")
                body = int(value) if name == b"content-length" else body
                answer += line
            return answer + answers.read(body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}", lost
        proxy.shutdown()


@pytest.mark.parametrize(
    ("verb", "place"), [(b"PUT", b"/manifest.json "), (b"POST", b"?uploadId="), (b"PUT", b"/metrics.json ")]
)
def test_lost_response(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, verb: bytes, place: bytes
) -> None:
    """The request succeeds, its response is lost, and the retry is rejected."""
    monkeypatch.setattr(s3_client, "MIN_WAIT", 0.01)
    with losing_responses(seaweed, lambda line: line.startswith(verb) and place in line) as (address, lost):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        published = s3.publish(model, uri)
        assert published == json.loads((model / MANIFEST).read_text()) == s3.read_manifest(uri)
    (answer,) = lost
    assert answer.endswith(b"200 OK")
    assert set(objects(seaweed, uri)) == {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}


def test_interrupted_download_resumes(
    model: Path,
    uri: str,
    seaweed: SeaweedFS,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    s3.publish(model, uri)
    monkeypatch.setattr(s3, "DOWNLOAD_PART_SIZE", 1 << 30)
    monkeypatch.setattr(s3_client, "MIN_WAIT", 0.01)
    ranges: list[str] = []
    on_event(monkeypatch, "before-send.s3", lambda request, **_: ranges.append(str(request.headers.get("Range"))))
    with losing_responses(seaweed, lambda line: b"/large.bin " in line, share=0.5) as (address, lost):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        s3.download(uri, tmp_path / "copy")
    assert lost
    assert digests(tmp_path / "copy") == digests(model)
    size = len(FILES["large.bin"])
    first, second = (asked for asked in ranges if f"-{size - 1}'" in asked)
    assert "bytes=0-" in first
    start = int(second.partition("bytes=")[2].partition("-")[0])
    assert size * 0.4 < start < size * 0.6, "received bytes are not requested again"
    assert ": 21.0 MB done" in capsys.readouterr().err.splitlines()[-1], "and not counted twice"


def test_bytes_corrupted_in_transit(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server rejects them, and they are sent again."""
    monkeypatch.setattr(s3_client, "MIN_WAIT", 0.01)
    damaged = set()

    def damage(request: AWSPreparedRequest, **_: object) -> None:
        kind = "uploadId" in request.url
        if isinstance(request.body, s3_chunks.ChunkBody) and len(request.body) > 0 and kind not in damaged:
            damaged.add(kind)
            sent = b"".join(iter(request.body.read, b""))
            request.body = io.BytesIO(b"!" + sent[1:])

    on_event(monkeypatch, "before-send.s3", damage)
    s3.publish(model, uri)
    assert damaged == {True, False}
    s3.download(uri, tmp_path / "copy")
    monkeypatch.setattr(s3_errors, "TRANSIENT_CODES", s3_errors.TRANSIENT_CODES - {"BadDigest"})
    damaged.clear()
    with pytest.raises(UserError, match="BadDigest"):
        s3.publish(model, f"{uri}-new")
    assert objects(seaweed, f"{uri}-new").keys() <= {f"{version(model)}/{name}" for name in FILES}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs Linux and root")
def test_full_disk(model: Path, uri: str, tmp_path: Path) -> None:
    s3.publish(model, uri)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small], check=True)
    try:
        with pytest.raises(UserError, match="copy: no space left on the disk; free some and run the command again"):
            s3.download(uri, small / "copy")
        assert left(small) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_progress_in_bytes(model: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"{root}/train/{'ab' * 32}"
    s3.publish(model, uri)
    s3.download(uri, tmp_path / "copy")
    shown = [line.partition(" done")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"{way} {root}/train/abababababab: 21.0 MB" for way in ("upload", "download")]
