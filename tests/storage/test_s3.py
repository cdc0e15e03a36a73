"""Artifacts in S3, on a real server: complete or absent, the first publication stays, and every error is one line."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from tests.conftest import ROOT
from tests.seaweed import artifact, objects, on_event, speak_to
from tests.storage.helpers import FILES, PART, address_of, digests, left, raises_user_error, version
from trm.storage import s3, s3_client
from trm.storage.artifacts import MANIFEST, verified_manifest
from trm.utils.errors import DataError, InternalError, UserError


def test_round_trip_and_layout(model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path) -> None:
    assert s3.read_manifest(uri) is None
    published = s3.publish(model, uri)
    assert published == json.loads((model / MANIFEST).read_text())
    assert s3.read_manifest(uri) == published
    sizes = {f"{version(model)}/{name}": len(data) for name, data in FILES.items()}
    assert objects(seaweed, uri) == {MANIFEST: (model / MANIFEST).stat().st_size, **sizes}
    assert s3.download(uri, tmp_path / "copy") == published
    verified_manifest(tmp_path / "copy", "train")
    assert digests(tmp_path / "copy") == digests(model)
    assert s3.download(f"{uri}/", tmp_path / "copy") == published  # over an earlier one


def test_large_files_are_split(model: Path, uri: str, requests: list[str], tmp_path: Path) -> None:
    s3.publish(model, uri)
    assert len([sent for sent in requests if "partNumber" in sent]) == 3 + 2
    assert len([sent for sent in requests if sent.startswith("GET")]) == 2 + 2  # manifest, lists
    assert requests[-3] == f"PUT {MANIFEST}", "the manifest is written last; then only lists"
    requests.clear()
    s3.download(uri, tmp_path / "copy")
    assert requests.count("GET large.bin") == 3
    assert len(requests) == 1 + 3 + 2 + 2, "nothing is asked for where a file is empty"


def test_published_files_are_not_uploaded_again(model: Path, uri: str, requests: list[str]) -> None:
    first = s3.publish(model, uri)
    requests.clear()
    assert s3.publish(model, uri) == first
    assert [sent for sent in requests if not sent.startswith("GET")] == []


def test_equal_files_of_a_similar_artifact_are_copied(
    model: Path, uri: str, requests: list[str], tmp_path: Path
) -> None:
    """Also a file in several parts. A similar artifact that is absent or damaged is not used."""
    s3.publish(model, uri)
    changed = artifact(tmp_path / "changed", FILES | {"exact.bin": b"other"})
    requests.clear()
    s3.publish(changed, f"{uri}-2", similar=uri)
    assert [sent for sent in requests if "large.bin" in sent] == ["PUT large.bin"]  # a copy; an upload has three parts
    s3.download(f"{uri}-2", tmp_path / "copy")
    assert digests(tmp_path / "copy") == digests(changed)
    requests.clear()
    s3.publish(model, f"{uri}-3", similar=f"{uri}-absent")
    assert len([sent for sent in requests if "large.bin" in sent]) > 3
    s3.download(f"{uri}-3", tmp_path / "copy")
    assert digests(tmp_path / "copy") == digests(model)


def test_missing_file_of_a_similar_artifact_is_uploaded(
    model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path
) -> None:
    s3.publish(model, uri)
    key = f"{uri.removeprefix(f's3://{BUCKET}/')}/{version(model)}/large.bin"
    seaweed.client().delete_object(Bucket=BUCKET, Key=key)
    s3.publish(model, f"{uri}-2", similar=uri)
    s3.download(f"{uri}-2", tmp_path / "copy")
    assert digests(tmp_path / "copy") == digests(model)


def test_interrupted_upload_resumes(model: Path, uri: str, requests: list[str], seaweed: SeaweedFS) -> None:
    s3.publish(model, uri)
    key = uri.removeprefix(f"s3://{BUCKET}/")
    client = seaweed.client()
    for name in (MANIFEST, f"{version(model)}/exact.bin"):
        client.delete_object(Bucket=BUCKET, Key=f"{key}/{name}")
    # What a killed process leaves: incomplete multipart uploads.
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{key}/{version(model)}/exact.bin")
    requests.clear()
    s3.publish(model, uri)
    assert {sent.partition("?")[0] for sent in requests if sent.startswith("PUT")} == {
        "PUT exact.bin",
        f"PUT {MANIFEST}",
    }
    assert set(objects(seaweed, uri)) == {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}


def test_paginated_listing(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, seaweed: SeaweedFS) -> None:
    def short_pages(params: dict[str, object], **_: object) -> None:
        params["MaxKeys"] = 2

    on_event(monkeypatch, "provide-client-params.s3.ListObjectsV2", short_pages)
    s3.publish(model, uri)
    names = {MANIFEST, *(f"{version(model)}/{name}" for name in FILES)}
    assert set(s3.Store(uri).sizes("")) == set(objects(seaweed, uri)) == names


def test_first_publication_stays(
    model: Path, uri: str, requests: list[str], seaweed: SeaweedFS, tmp_path: Path
) -> None:
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


def test_concurrent_publications(
    model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer publishes after our parts were uploaded: it wins and deletes our parts."""
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


def test_lost_upload_starts_again(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    complete = s3.Store.complete

    def lose(store: s3.Store, name: str, upload: str, *rest: object) -> None:
        monkeypatch.setattr(s3.Store, "complete", complete)
        store.abort(name, upload)
        complete(store, name, upload, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(s3.Store, "complete", lose)
    s3.publish(model, uri)
    s3.download(uri, tmp_path / "copy")


def test_json(root: str) -> None:
    assert s3.get_json(f"{root}/timing.json") is None
    s3.put_json(f"{root}/timing.json", {"seconds": 1})
    s3.put_json(f"{root}/timing.json", {"seconds": 2.5})
    assert s3.get_json(f"{root}/timing.json") == {"seconds": 2.5}


@pytest.mark.parametrize("name", ["large.bin", "metrics.json"])
@pytest.mark.parametrize("harm", ["changed", "shorter", "missing"])
def test_corrupt_objects(model: Path, uri: str, seaweed: SeaweedFS, tmp_path: Path, name: str, harm: str) -> None:
    s3.publish(model, uri)
    place = {"Bucket": BUCKET, "Key": f"{uri.removeprefix(f's3://{BUCKET}/')}/{version(model)}/{name}"}
    data = FILES[name]
    broken = {"changed": b"!" + data[1:], "shorter": data[: len(data) // 2]}
    if harm == "missing":
        seaweed.client().delete_object(**place)
    else:
        seaweed.client().put_object(**place, Body=broken[harm])
    with pytest.raises(DataError) as error:
        s3.download(uri, tmp_path / "new" / "copy")
    problem = "is corrupt: its SHA-256 differs from the manifest" if harm == "changed" else "is missing or truncated"
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
def test_invalid_manifest(uri: str, seaweed: SeaweedFS, tmp_path: Path, text: bytes) -> None:
    key = f"{uri.removeprefix(f's3://{BUCKET}/')}/{MANIFEST}"
    seaweed.client().put_object(Bucket=BUCKET, Key=key, Body=text)
    for read in (lambda: s3.read_manifest(uri), lambda: s3.download(uri, tmp_path / "copy")):
        with pytest.raises(DataError, match=f"^{uri}: manifest.json is invalid; delete it and run"):
            read()
    assert left(tmp_path) == []


def test_missing_artifact(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        s3.download(uri, tmp_path / "copy")
    assert str(error.value) == f"{uri}: contains no artifact; correct the URI, or run the stage that writes it"
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["large.bin", "metrics.json"])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_folder_that_differs_from_its_manifest(model: Path, uri: str, seaweed: SeaweedFS, name: str, harm: str) -> None:
    path = model / name
    path.write_bytes(b"!" + path.read_bytes()[1:]) if harm == "changed" else path.unlink()
    with pytest.raises(DataError) as error:
        s3.publish(model, uri)
    problem = "differs from manifest.json" if harm == "changed" else "cannot be read (No such file or directory)"
    assert str(error.value) == f"{path}: {problem}; run the stage again"
    assert s3.read_manifest(uri) is None
    assert not [found for found in objects(seaweed, uri) if name in found], "neither the file nor its parts"


def test_folder_without_manifest(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no manifest.json"):
        s3.publish(tmp_path, uri)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket//key", "https://a/b"]
)
def test_invalid_uri(uri: str) -> None:
    with pytest.raises(UserError) as error:
        s3.read_manifest(uri)
    assert str(error.value) == f"{uri}: not an S3 URI; write it as s3://bucket/folder"


def test_wrong_keys(uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"{uri}: cannot read manifest.json at {address_of(seaweed)}: "
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    expected = "SignatureDoesNotMatch: the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile"
    raises_user_error(lambda: s3.read_manifest(uri), at + expected)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    expected = "InvalidAccessKeyId: the server does not know this access key; correct AWS_ACCESS_KEY_ID or the profile"
    raises_user_error(lambda: s3.read_manifest(uri), at + expected)


def test_no_keys(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    problem = "Unable to locate credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    raises_user_error(lambda: s3.read_manifest(uri), f"{uri}: {problem}")


def test_missing_bucket(model: Path, root: str, seaweed: SeaweedFS, tmp_path: Path) -> None:
    del root
    expected = "NoSuchBucket: the bucket does not exist; create it or correct the address"
    for act in (
        lambda: s3.publish(model, "s3://absent/a"),
        lambda: s3.download("s3://absent/a", tmp_path / "copy"),
    ):
        raises_user_error(act, f"s3://absent/a: cannot read manifest.json at {address_of(seaweed)}: {expected}")
    assert left(tmp_path) == ["model"]


@pytest.mark.parametrize("size", [10, PART, PART + 1])
def test_read_only_identity(
    uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    model = artifact(tmp_path / "model", {"file": bytes(size)})
    s3.publish(model, uri)
    speak_to(seaweed, monkeypatch, "reader")
    s3.download(uri, tmp_path / "copy")
    expected = "AccessDenied: these credentials lack the permission; use others, or grant the permission"
    at = f"{uri}-new: cannot write {version(model)}/file at {address_of(seaweed)}: "
    raises_user_error(lambda: s3.publish(model, f"{uri}-new"), at + expected)
    assert objects(seaweed, f"{uri}-new") == {}


def test_failed_deletion_is_not_an_error(
    model: Path, uri: str, seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = s3.publish(model, uri)
    loser = f"{uri.removeprefix(f's3://{BUCKET}/')}/{'1' * 64}/file"
    seaweed.client().put_object(Bucket=BUCKET, Key=loser, Body=b"")
    speak_to(seaweed, monkeypatch, "reader")
    assert s3.publish(model, uri) == published
    assert "published, but stale objects could not be deleted" in capsys.readouterr().err


def test_unreachable_server(model: Path, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:secret@{address}")
    for act in (lambda: s3.publish(model, uri), lambda: s3.download(uri, tmp_path / "copy")):
        with pytest.raises(InternalError) as error:
            act()
        assert str(error.value) == (
            f"{uri}: {address} cannot be reached (EndpointConnectionError); "
            "retried for 0 seconds; check the network and AWS_ENDPOINT_URL_S3"
        )
    assert left(tmp_path) == ["model"]


def test_import_does_not_load_boto3() -> None:
    code = "import sys, trm.storage.s3; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
