"""Helpers for tests of artifacts in S3."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.local.s3_server import SeaweedFS
from trm.storage.artifacts import MANIFEST
from trm.utils.errors import UserError

PART = 5 << 20
"""The minimum size of a part in S3."""
FILES = {
    "metrics.json": b"{}\n",
    "empty": b"",
    "train/rows 1+2 (ä).parquet": b"rows" * 1000,
    "large.bin": bytes(range(256)) * (2 * PART // 256) + b"the end",
    "exact.bin": b"x" * 2 * PART,
}


def version(folder: Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def address_of(seaweed: SeaweedFS) -> str:
    return seaweed.endpoint.removeprefix("http://")


def raises_user_error(act: Callable[[], object], expected: str) -> None:
    with pytest.raises(UserError) as error:
        act()
    assert str(error.value) == expected
    assert type(error.value) is UserError
