"""Fixtures for tests of artifacts in S3."""

from pathlib import Path

import pytest

from tests.seaweed import artifact, on_event
from tests.storage.helpers import FILES, PART
from trm.storage import s3


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "UPLOAD_PART_SIZE", PART)
    monkeypatch.setattr(s3, "DOWNLOAD_PART_SIZE", PART)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return artifact(tmp_path / "model", FILES)


@pytest.fixture
def uri(root: str) -> str:
    return f"{root}/train/{'0' * 64}"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that were sent, such as `PUT manifest.json`."""
    sent: list[str] = []
    on_event(monkeypatch, "before-send.s3", lambda request, **_: sent.append(_named(request)))
    return sent


def _named(request: object) -> str:
    method, url = request.method, request.url  # pyright: ignore[reportAttributeAccessIssue]
    return f"{method} {url.rpartition('/')[2]}"
