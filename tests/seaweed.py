"""Fixtures and helpers for a real S3 server."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.local.s3_server import BUCKET, SeaweedFS
from trm.storage import s3_client
from trm.storage.artifacts import write_manifest

NOT_OURS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """Server of the session, for tests that do not stop it."""
    server = SeaweedFS(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_seaweed(tmp_path: Path) -> Iterator[SeaweedFS]:
    """Server of one test, which may kill it."""
    server = SeaweedFS(tmp_path / "seaweed")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def root(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of an empty prefix on the server of the session, which the environment selects."""
    speak_to(seaweed, monkeypatch)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


def speak_to(server: SeaweedFS, monkeypatch: pytest.MonkeyPatch, identity: str = "owner") -> None:
    """Configure boto3 for `server` and hide all other AWS settings of the machine."""
    for name in NOT_OURS:
        monkeypatch.delenv(name, raising=False)
    nothing = server.folder / "nothing"
    nothing.touch()
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(nothing))
    for name, value in {**server.environment(identity), "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


def on_event(monkeypatch: pytest.MonkeyPatch, event: str, callback: Callable[..., None]) -> None:
    """Call `callback` at an event (botocore's name) of all clients that are created from now on."""
    create = s3_client.create_client

    def create_client() -> object:
        client = create()
        client.meta.events.register(event, callback)
        return client

    monkeypatch.setattr(s3_client, "create_client", create_client)


def artifact(folder: Path, files: dict[str, bytes], **facts: object) -> Path:
    """An artifact folder with a manifest."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, {"stage": "train", "key": "0" * 64, **facts})
    return folder


def objects(server: SeaweedFS, uri: str) -> dict[str, int]:
    """Objects below `uri`: name -> size, -1 for unfinished uploads."""
    client, prefix = server.client(), uri.removeprefix(f"s3://{BUCKET}/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    found = {item["Key"].removeprefix(prefix): item["Size"] for page in pages for item in page.get("Contents", ())}
    unfinished = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", ())
    return found | {f"{item['Key'].removeprefix(prefix)}?{item['UploadId']}": -1 for item in unfinished}
