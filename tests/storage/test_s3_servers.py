"""Servers and proxies in the field: each failure is one line with its cause and remedy, at once."""

import shutil
import socketserver
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.seaweed import NOT_OURS, artifact
from tests.storage.faulty_s3 import PAGE, XHTML, Answer, refused, serve
from tests.storage.helpers import raises_user_error
from trm.storage import s3, s3_client
from trm.storage.s3_client import ConflictError, Store
from trm.utils.errors import UserError

URI = f"s3://bucket/root/train/{'0' * 64}"
OTHER_SERVER = "correct AWS_ENDPOINT_URL_S3, or HTTPS_PROXY and NO_PROXY if there is a proxy"
NO_S3 = f"the response is not that of an S3 server; {OTHER_SERVER}"


def no_s3(status: int) -> str:
    return f"the response is not that of an S3 server (HTTP status {status}); {OTHER_SERVER}"


EXPIRED = "the session token has expired; log in again, or renew AWS_SESSION_TOKEN"
FULL = "the server's storage or quota is full; delete objects or raise the quota"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for any server, and none of this machine's settings."""
    for name in (*NOT_OURS, "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "nothing").touch()
    settings = {name: str(tmp_path / "nothing") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    settings |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "PROVEN", set())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return artifact(tmp_path / "model", {"file": b"content"})


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("the program openssl is not installed")
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command = ["openssl", "req", *options, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made]
    subprocess.run(command, check=True, capture_output=True)
    made.write_text(made.read_text() + key.read_text())
    return made


READ, WRITE = "cannot read manifest.json at", "cannot write"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(200, PAGE), NO_S3),
        (Answer(200, PAGE, headers={"ETag": '"1"'}), NO_S3),
        (Answer(200, b"ok", "text/plain"), NO_S3),
        (Answer(404, PAGE), no_s3(404)),
        (Answer(405, PAGE), no_s3(405)),
        (
            Answer(302, b"", headers={"Location": "/login"}),
            no_s3(302),
        ),
        (Answer(403, b"denied", "text/plain"), no_s3(403)),
        (
            Answer(407, PAGE),
            "407: the proxy requires a password; add it to HTTPS_PROXY or HTTP_PROXY, or name the server in NO_PROXY",
        ),
        (
            Answer(407, XHTML),
            "407: the proxy requires a password; add it to HTTPS_PROXY or HTTP_PROXY, or name the server in NO_PROXY",
        ),
        (
            refused("RequestTimeTooSkewed", 403, "The difference is too large."),
            "RequestTimeTooSkewed: the clock of this machine differs from the server's; set the clock",
        ),
        (
            refused("AuthorizationHeaderMalformed", 400, "The region is wrong; expecting 'eu-1'."),
            "AuthorizationHeaderMalformed: The region is wrong; expecting 'eu-1'; "
            "set AWS_REGION to the region of the bucket",
        ),
        (refused("ExpiredToken", 400, "expired"), f"ExpiredToken: {EXPIRED}"),
        (refused("ExpiredTokenException", 400, "expired"), f"ExpiredTokenException: {EXPIRED}"),
        (
            refused("InvalidToken", 400, "malformed"),
            "InvalidToken: the session token is wrong; correct or unset AWS_SESSION_TOKEN, or log in again",
        ),
        (
            refused("SecondLevelDomainForbidden", 403, "Please use virtual hosted style to access."),
            "SecondLevelDomainForbidden: set `addressing_style = virtual` below `s3 =` in the file AWS_CONFIG_FILE",
        ),
        (refused("Surprise", 400, "What?"), "Surprise: What?; correct the settings of S3"),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Answer) else value[:24],
)
def test_failed_requests(model: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, problem: str) -> None:
    with serve([answer]) as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        for act in (lambda: s3.read_manifest(URI), lambda: s3.publish(model, URI)):
            raises_user_error(act, f"{URI}: {READ} {address.removeprefix('http://')}: {problem}")
    assert len(requests) <= 4, "at once"


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"])
@pytest.mark.parametrize("status", [403, 507])
def test_full_storage(model: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    with serve([refused(code, status, "full", "PUT")]) as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(UserError, match=f"cannot test conditional writes at .*: {code}: {FULL}$"):
            s3.publish(model, URI)
    assert [request.partition(" ")[0] for request in requests] == ["GET", "PUT"], "at once"


def test_page_in_place_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (PAGE, XHTML):
        with serve([Answer(200, page)]) as (address, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
            with pytest.raises(UserError, match="the response is not that of an S3 server"):
                s3.published_names(URI)


def test_checksums_that_the_server_refuses_or_does_not_verify(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "Unsupported header 'x-amz-checksum-crc32' received for this API call."
    with serve([refused("InvalidArgument", 400, message, "PUT")]) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(UserError, match=r"InvalidArgument: the server does not support checksums \(CRC32\); use"):
            s3.publish(model, URI)
    with serve(ignores=("x-amz-checksum-crc32",)) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(UserError, match=r"does not verify checksums \(CRC32\); use a server that does"):
            s3.publish(model, URI)


def test_ignored_conditions_are_refused_before_anything_is_published(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(ignores=("If-None-Match",)) as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        with pytest.raises(UserError, match="ignores the condition If-None-Match of a write"):
            s3.publish(model, URI)
        assert {request for request in requests if "PUT" in request} == {"PUT /bucket/root/conditional-write-test"}
    with serve(ignores=("If-Match",)) as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        store = Store("s3://bucket/models/sudoku")
        store.put_if_absent("champion.json", b"1")
        with pytest.raises(UserError, match="ignores the condition If-Match of a write"):
            store.put_if_match("champion.json", b"2", store.get_with_etag("champion.json")[1])
        assert store.get("champion.json") == b"1"


def test_the_condition_is_tested_once_per_root(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        for number in range(3):
            s3.publish(model, f"s3://bucket/root/train/{number:064}")
        tests = [request for request in requests if "conditional-write-test" in request]
        assert tests == ["PUT /bucket/root/conditional-write-test"] * 2
        s3.publish(model, f"s3://bucket/other/train/{'0' * 64}")
        assert len([request for request in requests if "other/conditional-write-test" in request]) == 2
        with pytest.raises(ConflictError):
            Store(URI).put_if_absent("manifest.json", b"")  # unproven roots and proven ones alike


def test_renewed_credentials_are_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program renews the file of the credentials while a transfer runs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = x\n")
    answers = [refused("ExpiredToken", 400, "expired")]
    with serve(answers) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        store = Store(URI)
        make = s3_client.create_client

        def renewed() -> object:
            answers.clear()
            return make()

        monkeypatch.setattr(s3_client, "create_client", renewed)
        store.put("manifest.json", b"{}")
        assert store.get("manifest.json") == b"{}"


def test_throttled_requests_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "MIN_WAIT", 0.001)
    with serve([replace(refused("ThrottlingException", 400, "Rate exceeded"), times=3)]) as (address, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        assert s3.read_manifest(URI) is None
    assert len(requests) == 4


def test_certificate_that_is_not_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(certificate=certificate) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        problem = "its certificate is not trusted (self-signed certificate)"
        remedy = "set AWS_CA_BUNDLE to the file of its authority's certificate"
        raises_user_error(lambda: s3.read_manifest(URI), f"{URI}: {problem}; {remedy}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert s3.read_manifest(URI) is None
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address.replace("127.0.0.1", "localhost"))
        with pytest.raises(UserError, match="localhost.* match.*; correct the host name in AWS_ENDPOINT_URL_S3$"):
            s3.read_manifest(URI)


def test_wrong_scheme(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address.replace("http:", "https:"))
        with pytest.raises(UserError, match="does not use TLS at this port; write http:// or another port in AWS_"):
            s3.read_manifest(URI)
    with serve(certificate=certificate) as (address, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address.replace("https:", "http:"))
        with pytest.raises(UserError, match="the server expects TLS; write https:// in AWS_ENDPOINT_URL_S3$"):
            s3.read_manifest(URI)


def test_proxy_that_requires_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.org")
        with pytest.raises(UserError, match="the proxy requires a password; add it to HTTPS_PROXY"):
            s3.read_manifest(URI)
        proxy.shutdown()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("AWS_PROFILE", "absent", "The config profile (absent) could not be found; correct AWS_PROFILE"),
        (
            "AWS_ENDPOINT_URL_S3",
            "nowhere",
            "Invalid endpoint: nowhere; write AWS_ENDPOINT_URL_S3 as https://host:port",
        ),
    ],
)
def test_wrong_settings(monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    raises_user_error(lambda: s3.read_manifest(URI), f"{URI}: {problem}")
