import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from trm.data import download as module
from trm.data.download import cache_folder, download
from trm.utils.errors import DataError, UserError

BODY = np.random.default_rng(0).bytes(900_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY at /file.csv; `plan` lists the actions for the next requests: a status, `cut` or `serve`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[int | str] = []
        self.requests: list[tuple[str | None, int]] = []
        self.body, self.tag, self.ranges = BODY, '"one"', True

    def handle_error(self, request: object, client_address: object) -> None:
        """Disconnecting clients are expected."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.csv"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        action = server.plan.pop(0) if server.plan else "serve"
        requested_range = self.headers.get("Range")
        if self.path == "/moved.csv":
            return self.answer(302, b"", {"Location": "/file.csv"})
        if self.path != "/file.csv":
            return self.answer(404, b"no", {})
        if isinstance(action, int):
            server.requests.append((requested_range, action))
            return self.answer(action, b"later", {"Retry-After": "0"})
        unchanged = self.headers.get("If-Range") in (None, server.tag)
        start, status, extra = 0, 200, {"ETag": server.tag} if server.tag else {}
        if requested_range and server.ranges and unchanged:
            start, status = int(requested_range.removeprefix("bytes=").rstrip("-")), 206
            extra["Content-Range"] = f"bytes {start}-{len(server.body) - 1}/{len(server.body)}"
        server.requests.append((requested_range, status))
        return self.answer(status, server.body[start:], extra, cut=action == "cut")

    def answer(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "MIN_WAIT", 0.01)
    (tmp_path / "out").mkdir()


def cached_files() -> list[str]:
    return [file.name for file in (cache_folder() / "downloads").iterdir() if file.suffix != ".lock"]


def test_complete_file(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "out/file.csv"
    assert download(server.url, dest, DIGEST) == DIGEST
    assert dest.read_bytes() == BODY
    assert cached_files() == []
    assert "download file.csv: 900.0 kB done" in capsys.readouterr().err
    assert download(server.url.replace("file", "moved"), tmp_path / "out/again.csv", None) == DIGEST


def test_resumes_after_broken_connection(server: Server, tmp_path: Path) -> None:
    server.plan = ["cut", "cut"]
    assert download(server.url, tmp_path / "out/a", None) == DIGEST
    ranges = [requested_range for requested_range, _ in server.requests]
    assert ranges == [None, "bytes=450000-", "bytes=675000-"]


def interrupt(_seconds: float) -> None:
    raise KeyboardInterrupt


def test_resumes_in_later_process(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.plan = ["cut"]
    with monkeypatch.context() as patch:
        patch.setattr("tenacity.nap.time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(server.url, tmp_path / "out/a", None)
    assert list((tmp_path / "out").iterdir()) == []
    assert download(server.url, tmp_path / "out/a", None) == DIGEST
    assert server.requests == [(None, 200), ("bytes=450000-", 206)]


def download_half_then_change(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    server.plan = ["cut"]
    with monkeypatch.context() as patch:
        patch.setattr("tenacity.nap.time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(server.url, tmp_path / "out/a", None)
    server.body = BODY[::-1]
    return server.body


def test_changed_file_restarts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = download_half_then_change(server, tmp_path, monkeypatch)
    server.tag = '"two"'
    digest = download(server.url, tmp_path / "out/a", None)
    assert digest == hashlib.sha256(body).hexdigest()
    assert server.requests[1:] == [("bytes=450000-", 200)]


def test_changed_file_restarts_if_server_ignores_if_range(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = download_half_then_change(server, tmp_path, monkeypatch)
    monkeypatch.setattr(Server, "tag", property(lambda _: Anything('"two"'), lambda *_: None), raising=False)
    assert download(server.url, tmp_path / "out/a", None) == hashlib.sha256(body).hexdigest()
    assert server.requests[1:] == [("bytes=450000-", 206), (None, 200)]


class Anything(str):
    """A string that equals every other one."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def test_without_validator_resumes_only_with_sha256(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tag = ""
    server.plan = ["cut"]
    assert download(server.url, tmp_path / "out/a", None) == DIGEST
    assert [requested_range for requested_range, _ in server.requests] == [None, None]
    server.requests.clear()
    server.plan = ["cut"]
    assert download(server.url, tmp_path / "out/b", DIGEST) == DIGEST
    assert [requested_range for requested_range, _ in server.requests] == [None, "bytes=450000-"]
    # A changed file appended to the old half has a wrong sha256: it is downloaded again in one piece.
    server.requests.clear()
    body = download_half_then_change(server, tmp_path, monkeypatch)
    digest = hashlib.sha256(body).hexdigest()
    assert download(server.url, tmp_path / "out/c", digest) == digest
    assert [requested_range for requested_range, _ in server.requests] == [None, "bytes=450000-", None]


def test_server_without_ranges_restarts(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.plan = ["cut"]
    assert download(server.url, tmp_path / "out/a", None) == DIGEST
    assert server.requests == [(None, 200), ("bytes=450000-", 200)]


def test_transient_errors_are_retried_with_limit(server: Server, tmp_path: Path) -> None:
    server.plan = [503, 429, 500]
    assert download(server.url, tmp_path / "out/a", None) == DIGEST
    assert len(server.requests) == 4
    server.plan = [503] * 99
    with pytest.raises(UserError, match=r"file.csv: the server responded 503, after 6 attempts; check the network"):
        download(server.url, tmp_path / "out/b", None)
    assert not (tmp_path / "out/b").exists()


def test_wrong_sha256_leaves_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"file.csv: expected sha256 {'0' * 64}. Got {DIGEST}; the download was deleted"
    ):
        download(server.url, tmp_path / "out/a", "0" * 64)
    assert list((tmp_path / "out").iterdir()) == []
    assert cached_files() == []


def test_permanent_errors_are_not_retried(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none.csv: the server responded 404 Not Found; correct the URL"):
        download(server.url.replace("file", "none"), tmp_path / "out/a", None)
    with pytest.raises(UserError, match=r"not a valid URL"):
        download("http://host:port/x", tmp_path / "out/a", None)


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: connections are refused
        with pytest.raises(
            UserError, match=r"cannot be reached .* after 3 attempts; .*data.source.type: path"
        ) as error:
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/x", tmp_path / "out/a", None)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cache")

    with monkeypatch.context() as patch:
        patch.setattr(module, "progress", full)  # called when the file is open
        with pytest.raises(UserError, match=r"cache: the disk is full; free space or set TRM_CACHE_DIR"):
            download(server.url, tmp_path / "out/a", None)
    # Only the file system of the destination is full.
    cross = OSError(errno.EXDEV, "other device")
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (_ for _ in ()).throw(cross) if b.name == "a" else replace(a, b))
    monkeypatch.setattr(module.shutil, "copyfile", lambda a, b: (b.write_bytes(b"half"), full()))
    with pytest.raises(UserError, match=r"the disk is full"):
        download(server.url, tmp_path / "out/a", None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_device(server: Server, tmp_path: Path) -> None:
    folder = cache_folder() / "downloads"
    folder.mkdir(parents=True)
    name = hashlib.sha256(server.url.encode()).hexdigest()
    (folder / f"{name}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk is full; free space"):
        download(server.url, tmp_path / "out/a", None)
    assert list((tmp_path / "out").iterdir()) == []
