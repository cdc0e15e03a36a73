"""Artifacts in S3, on a real server: whole or absent, the first one wins, and every failure in one line."""

import hashlib
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

from pipeline.local.s3_server import BUCKET, SeaweedFS
from tests.conftest import ROOT
from tests.seaweed import artifact, objects, speak_to
from trm.storage import s3, s3_client
from trm.storage.artifacts import MANIFEST, verified_manifest
from trm.utils.errors import DataError, InternalError, UserError

PART = 5 << 20
"""The smallest that servers take."""
FILES = {
    "metrics.json": b"{}\n",
    "empty": b"",
    "train/rows 1+2 (ä).parquet": b"rows" * 1000,
    "large.bin": bytes(range(256)) * (2 * PART // 256) + b"the end",
    "exact.bin": b"x" * 2 * PART,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "UPLOAD_PART", PART)
    monkeypatch.setattr(s3, "DOWNLOAD_PART", PART)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return artifact(tmp_path / "model", FILES)


@pytest.fixture
def uri(root: str) -> str:
    return f"{root}/train/{'0' * 64}"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that were sent, as `PUT manifest.json`."""
    sent: list[str] = []
    make = s3_client._client

    def client() -> object:
        made = make()
        made.meta.events.register("before-send.s3", lambda request, **_: sent.append(_named(request)))
        return made

    monkeypatch.setattr(s3_client, "_client", client)
    return sent


def _named(request: object) -> str:
    method, url = request.method, request.url  # pyright: ignore[reportAttributeAccessIssue]
    return f"{method} {url.rpartition('/')[2]}"


def version(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_an_address() -> None:
    assert s3.is_uri("s3://trm/runs")
    for other in ("outputs/raw", "/s3://trm", Path("s3://trm/runs"), "S3", "", None):
        assert not s3.is_uri(other)


def test_round_trip_and_layout(model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path) -> None:
    assert s3.read_manifest(uri) is None
    published = s3.publish(model, uri)
    assert published == json.loads((model / MANIFEST).read_text())
    assert s3.read_manifest(uri) == published
    sizes = {f"{version(model)}/{name}": len(data) for name, data in FILES.items()}
    assert objects(seaweed, uri) == {MANIFEST: (model / MANIFEST).stat().st_size, **sizes}
    assert s3.download(uri, tmp_path / "brought") == published
    verified_manifest(tmp_path / "brought", "train")
    assert digests(tmp_path / "brought") == digests(model)
    assert s3.download(f"{uri}/", tmp_path / "brought") == published  # over an earlier one


def test_large_files_travel_in_parts(model: Path, uri: str, requests: list[str], tmp_path: Path) -> None:
    s3.publish(model, uri)
    assert len([sent for sent in requests if "partNumber" in sent]) == 3 + 2
    assert len([sent for sent in requests if sent.startswith("GET")]) == 2 + 2  # manifest, lists
    assert requests[-3] == f"PUT {MANIFEST}", "the manifest is written last; then only lists"
    requests.clear()
    s3.download(uri, tmp_path / "brought")
    assert requests.count("GET large.bin") == 3
    assert len(requests) == 1 + 3 + 2 + 2, "nothing is asked for where a file is empty"


def test_nothing_is_uploaded_twice(model: Path, uri: str, requests: list[str]) -> None:
    first = s3.publish(model, uri)
    requests.clear()
    assert s3.publish(model, uri) == first
    assert [sent for sent in requests if not sent.startswith("GET")] == []


def test_an_upload_goes_on(model: Path, uri: str, requests: list[str], seaweed: SeaweedFS) -> None:
    s3.publish(model, uri)
    key = uri.removeprefix(f"s3://{BUCKET}/")
    client = seaweed.client()
    for name in (MANIFEST, f"{version(model)}/exact.bin"):
        client.delete_object(Bucket=BUCKET, Key=f"{key}/{name}")
    # What a killed process leaves: parts that nobody completes.
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{key}/{version(model)}/exact.bin")
    requests.clear()
    s3.publish(model, uri)
    assert {sent.partition("?")[0] for sent in requests if sent.startswith("PUT")} == {
        "PUT exact.bin",
        f"PUT {MANIFEST}",
    }
    assert set(objects(seaweed, uri)) == {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}


def test_long_lists_come_in_pages(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, seaweed: SeaweedFS) -> None:
    make = s3_client._client

    def short_pages(params: dict[str, object], **_: object) -> None:
        params["MaxKeys"] = 2

    def client() -> object:
        made = make()
        made.meta.events.register("provide-client-params.s3.ListObjectsV2", short_pages)
        return made

    monkeypatch.setattr(s3_client, "_client", client)
    s3.publish(model, uri)
    names = {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}
    assert set(s3.Store(uri).sizes("")) == set(objects(seaweed, uri)) == names


def test_the_first_one_wins(model: Path, uri: str, requests: list[str], seaweed: SeaweedFS, tmp_path: Path) -> None:
    first = s3.publish(model, uri)
    other = artifact(tmp_path / "other", {**FILES, "metrics.json": b"{1}\n"}, facts={"device": "cuda"})
    requests.clear()
    assert s3.publish(other, uri) == first
    assert not [sent for sent in requests if sent.startswith("PUT")]
    s3.put_json(f"{uri}/timing.json", {"seconds": 1})
    late = f"{uri.removeprefix(f's3://{BUCKET}/')}/{version(other)}/metrics.json"
    seaweed.client().put_object(Bucket=BUCKET, Key=late, Body=b"{1}\n")
    s3.publish(model, uri)
    expected = {MANIFEST, "timing.json", *(f"{version(model)}/{name}" for name in FILES)}
    assert set(objects(seaweed, uri)) == expected, "what lost is removed"


def test_two_versions_race(
    model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer publishes while we upload, after our parts were sent: it wins and removes our parts."""
    other = artifact(tmp_path / "other", FILES, facts={"device": "cuda"})
    complete = s3.Store.complete

    def late(store: s3.Store, *args: object) -> None:
        monkeypatch.setattr(s3.Store, "complete", complete)
        s3.publish(other, uri)
        complete(store, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(s3.Store, "complete", late)
    winner = s3.publish(model, uri)
    assert winner == json.loads((other / MANIFEST).read_text()) == s3.read_manifest(uri)
    assert set(objects(seaweed, uri)) == {MANIFEST, *(f"{version(other)}/{name}" for name in FILES)}


def test_a_lost_upload_is_begun_again(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    complete = s3.Store.complete

    def lose(store: s3.Store, name: str, upload: str, *rest: object) -> None:
        monkeypatch.setattr(s3.Store, "complete", complete)
        store.abort(name, upload)
        complete(store, name, upload, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(s3.Store, "complete", lose)
    s3.publish(model, uri)
    s3.download(uri, tmp_path / "brought")


def test_json(root: str) -> None:
    assert s3.get_json(f"{root}/timing.json") is None
    s3.put_json(f"{root}/timing.json", {"seconds": 1})
    s3.put_json(f"{root}/timing.json", {"seconds": 2.5})
    assert s3.get_json(f"{root}/timing.json") == {"seconds": 2.5}


@pytest.mark.parametrize("name", ["large.bin", "metrics.json"])
@pytest.mark.parametrize("harm", ["changed", "shorter", "missing"])
def test_broken_objects(model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path, name: str, harm: str) -> None:
    s3.publish(model, uri)
    place = {"Bucket": BUCKET, "Key": f"{uri.removeprefix(f's3://{BUCKET}/')}/{version(model)}/{name}"}
    data = FILES[name]
    broken = {"changed": b"!" + data[1:], "shorter": data[: len(data) // 2]}
    if harm == "missing":
        seaweed.client().delete_object(**place)
    else:
        seaweed.client().put_object(**place, Body=broken[harm])
    with pytest.raises(DataError) as error:
        s3.download(uri, tmp_path / "new" / "brought")
    problem = "is broken, its sha256 is not the manifest's" if harm == "changed" else "is missing or too short"
    assert str(error.value) == f"{uri}: {name} {problem}; delete {uri} and run its stage again"
    assert left(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"files": []}', b'{"files": {"a": {}}}', b'{"files": {"a": {"sha256": "0", "bytes": 1}}}']
    + [
        b'{"files": {"%s": {"sha256": "%s", "bytes": 1}}}' % (name, b"0" * 64)
        for name in (b"../a", b"/a", b"a/../../b", b"a//b", b"")
    ],
)
def test_a_strange_manifest(uri: str, seaweed: SeaweedFS, tmp_path: Path, text: bytes) -> None:
    key = f"{uri.removeprefix(f's3://{BUCKET}/')}/{MANIFEST}"
    seaweed.client().put_object(Bucket=BUCKET, Key=key, Body=text)
    for read in (lambda: s3.read_manifest(uri), lambda: s3.download(uri, tmp_path / "brought")):
        with pytest.raises(DataError, match=f"^{uri}: its manifest.json is not a manifest; delete it and run"):
            read()
    assert left(tmp_path) == []


def test_there_is_no_such_artifact(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        s3.download(uri, tmp_path / "brought")
    assert str(error.value) == f"{uri}: holds no artifact (yet); correct the address, or run the stage that writes it"
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["large.bin", "metrics.json"])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_folder_that_is_not_its_manifests(model: Path, uri: str, seaweed: SeaweedFS, name: str, harm: str) -> None:
    path = model / name
    path.write_bytes(b"!" + path.read_bytes()[1:]) if harm == "changed" else path.unlink()
    with pytest.raises(DataError) as error:
        s3.publish(model, uri)
    problem = "is not what manifest.json says" if harm == "changed" else "cannot be read (No such file or directory)"
    assert str(error.value) == f"{path}: {problem}; run the stage again"
    assert s3.read_manifest(uri) is None
    assert not [found for found in objects(seaweed, uri) if name in found], "neither the file nor its parts"


def test_a_folder_that_no_stage_wrote(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no manifest.json"):
        s3.publish(tmp_path, uri)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket//key", "https://a/b"]
)
def test_no_address(uri: str) -> None:
    with pytest.raises(UserError) as error:
        s3.read_manifest(uri)
    assert str(error.value) == f"{uri}: is no address of an artifact; write it as s3://bucket/folder"


def _server(seaweed: SeaweedFS) -> str:
    return seaweed.endpoint.removeprefix("http://")


def _refused(act: Callable[[], object], expected: str) -> None:
    with pytest.raises(UserError) as error:
        act()
    assert str(error.value) == expected
    assert type(error.value) is UserError


def test_wrong_keys(uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"{uri}: cannot read manifest.json at {_server(seaweed)}: "
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    expected = "SignatureDoesNotMatch: the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile"
    _refused(lambda: s3.read_manifest(uri), at + expected)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    expected = "InvalidAccessKeyId: the server does not know this access key; correct AWS_ACCESS_KEY_ID or the profile"
    _refused(lambda: s3.read_manifest(uri), at + expected)


def test_no_keys(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or correct the settings of boto3"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    _refused(lambda: s3.read_manifest(uri), f"{uri}: Unable to locate credentials; {remedy}")
    monkeypatch.setenv("AWS_PROFILE", "absent")
    _refused(lambda: s3.read_manifest(uri), f"{uri}: The config profile (absent) could not be found; {remedy}")
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nowhere")
    _refused(lambda: s3.read_manifest(uri), f"{uri}: Invalid endpoint: nowhere; {remedy}")


def test_missing_bucket(model: Path, root: str, seaweed: SeaweedFS, tmp_path: Path) -> None:
    del root
    expected = "NoSuchBucket: the bucket does not exist; create it or correct the address"
    for act in (lambda: s3.publish(model, "s3://absent/a"), lambda: s3.download("s3://absent/a", tmp_path / "brought")):
        _refused(act, f"s3://absent/a: cannot read manifest.json at {_server(seaweed)}: {expected}")
    assert left(tmp_path) == ["model"]


@pytest.mark.parametrize("size", [10, PART, PART + 1])
def test_read_only_identity(
    uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    model = artifact(tmp_path / "model", {"file": bytes(size)})
    s3.publish(model, uri)
    speak_to(seaweed, monkeypatch, "reader")
    s3.download(uri, tmp_path / "brought")
    expected = "AccessDenied: these credentials may not do that; use others, or have them allowed to"
    at = f"{uri}-new: cannot write {version(model)}/file at {_server(seaweed)}: "
    _refused(lambda: s3.publish(model, f"{uri}-new"), at + expected)
    assert objects(seaweed, f"{uri}-new") == {}


def test_what_cannot_be_removed_is_no_failure(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = s3.publish(model, uri)
    loser = f"{uri.removeprefix(f's3://{BUCKET}/')}/{'1' * 64}/file"
    seaweed.client().put_object(Bucket=BUCKET, Key=loser, Body=b"")
    speak_to(seaweed, monkeypatch, "reader")
    assert s3.publish(model, uri) == published
    assert "is published, but older tries could not be removed" in capsys.readouterr().err


def test_no_server(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3_client, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:secret@{address}")
    for act in (lambda: s3.publish(model, uri), lambda: s3.download(uri, tmp_path / "brought")):
        with pytest.raises(InternalError) as error:
            act()
        assert str(error.value) == (
            f"{uri}: {address} cannot be reached (EndpointConnectionError); "
            "tried for 0 seconds; check the network and AWS_ENDPOINT_URL_S3, then start again"
        )
    assert left(tmp_path) == ["model"]


def test_importing_it_is_cheap() -> None:
    code = "import sys, trm.storage.s3; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@contextmanager
def losing_answers(
    seaweed: SeaweedFS, to: Callable[[bytes], bool], share: float = 1.0
) -> Iterator[tuple[str, list[bytes]]]:
    """The server behind a proxy that answers the first request that `to` picks with a broken connection, after all but
    this share of the answer: its address, and the line of the request with the answer's first.
    """
    host, _, port = _server(seaweed).partition(":")
    lost: list[bytes] = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as server:
                answers = server.makefile("rb")
                while line := self.rfile.readline():
                    wait, body = self._forward(line, server)
                    if wait:  # the server wants to see the head before the body
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
def test_a_lost_answer(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, verb: bytes, place: bytes
) -> None:
    """The request was done and then, as nobody heard of it, sent again: the second answer is a refusal."""
    monkeypatch.setattr(s3_client, "FIRST_WAIT", 0.01)
    with losing_answers(seaweed, lambda line: line.startswith(verb) and place in line) as (address, lost):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        published = s3.publish(model, uri)
        assert published == json.loads((model / MANIFEST).read_text()) == s3.read_manifest(uri)
    (answer,) = lost
    assert answer.endswith(b"200 OK")
    assert set(objects(seaweed, uri)) == {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}


def test_a_broken_download_goes_on(
    model: Path,
    uri: str,
    seaweed: SeaweedFS,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    s3.publish(model, uri)
    monkeypatch.setattr(s3, "DOWNLOAD_PART", 1 << 30)
    monkeypatch.setattr(s3_client, "FIRST_WAIT", 0.01)
    ranges: list[str] = []
    make = s3_client._client

    def client() -> object:
        made = make()
        made.meta.events.register(
            "before-send.s3", lambda request, **_: ranges.append(str(request.headers.get("Range")))
        )
        return made

    monkeypatch.setattr(s3_client, "_client", client)
    with losing_answers(seaweed, lambda line: b"/large.bin " in line, share=0.5) as (address, lost):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        s3.download(uri, tmp_path / "brought")
    assert lost
    assert digests(tmp_path / "brought") == digests(model)
    size = len(FILES["large.bin"])
    first, second = (asked for asked in ranges if f"-{size - 1}'" in asked)
    assert "bytes=0-" in first
    start = int(second.partition("bytes=")[2].partition("-")[0])
    assert size * 0.4 < start < size * 0.6, "what had come is not asked for again"
    assert ": 21.0 MB done" in capsys.readouterr().err.splitlines()[-1], "nor counted twice"


def test_bytes_that_are_damaged_on_their_way(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server finds out and refuses them, and they are sent again."""
    monkeypatch.setattr(s3_client, "FIRST_WAIT", 0.01)
    make, damaged = s3_client._client, set()

    def damage(request: AWSPreparedRequest, **_: object) -> None:
        kind = "uploadId" in request.url
        if isinstance(request.body, s3_client._Body) and len(request.body) > 0 and kind not in damaged:
            damaged.add(kind)
            sent = b"".join(iter(request.body.read, b""))
            request.body = io.BytesIO(b"!" + sent[1:])

    def client() -> object:
        made = make()
        made.meta.events.register("before-send.s3", damage)
        return made

    monkeypatch.setattr(s3_client, "_client", client)
    s3.publish(model, uri)
    assert damaged == {True, False}
    s3.download(uri, tmp_path / "brought")
    monkeypatch.setattr(s3_client, "PASSING", s3_client.PASSING - {"BadDigest"})
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
        with pytest.raises(UserError, match="brought: no space left on the disk; free some and run the command again"):
            s3.download(uri, small / "brought")
        assert left(small) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_progress_is_shown_in_bytes(model: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"{root}/train/{'ab' * 32}"
    s3.publish(model, uri)
    s3.download(uri, tmp_path / "brought")
    shown = [line.partition(" done")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"{way} {root}/train/abababababab: 21.0 MB" for way in ("upload", "download")]
