"""Addresses and the folders of the cache."""

import pwd
from pathlib import Path

import pytest

from trm.utils.errors import UserError
from trm.utils.paths import cache_folder, is_s3_uri, local_path, states_folder


def test_s3_uris_and_local_paths() -> None:
    assert is_s3_uri("s3://trm/runs")
    for path in ("outputs/raw", "/s3://trm", "s3", "", "a:b/c", "c:/x", "gs:file", Path("outputs")):
        assert not is_s3_uri(path)
        assert local_path(path) == Path(path)


@pytest.mark.parametrize(
    "address", ["gs://b/k", "https://x.org/a", "minio://b", "S3://b/k", "s3:/b/k", "file:///x", Path("s3://b/k")]
)
def test_other_addresses_are_refused(address: str | Path) -> None:
    for check in (is_s3_uri, local_path):
        with pytest.raises(UserError, match=f"^{address}: .*(s3://bucket/folder|local path)$"):
            check(address)


def test_an_s3_uri_is_no_local_path() -> None:
    with pytest.raises(UserError, match="^s3://b/k: an address of a server; give a local path$"):
        local_path("s3://b/k")


@pytest.mark.parametrize("variable", ["TRM_CACHE_DIR", "TRM_STATE_DIR"])
def test_other_addresses_in_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "gs://bucket/states")
    with pytest.raises(UserError, match=f"^{variable}=gs://bucket/states: an address of a server; give a local path$"):
        (cache_folder if variable == "TRM_CACHE_DIR" else states_folder)()


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with any uid: the cache would be a folder named `~`."""

    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "TRM_CACHE_DIR", "TRM_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match="^HOME is not set .*; set TRM_CACHE_DIR or HOME to a writable folder$"):
        cache_folder()
    with pytest.raises(UserError, match="; set TRM_STATE_DIR or HOME to a writable folder$"):
        states_folder()
    monkeypatch.setenv("TRM_CACHE_DIR", "/cache")
    assert cache_folder() == Path("/cache")
