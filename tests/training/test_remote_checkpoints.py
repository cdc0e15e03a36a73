"""Requests for uploads of the training state, without S3: none is lost. tests/integration tests the uploads."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components.train.fake_cluster import wait_for
from trm.storage import s3
from trm.storage.artifacts import write_manifest
from trm.training.remote_checkpoints import RemoteCheckpoints
from trm.training.state_folder import FILE, StateFolder
from trm.utils.errors import DataError, UserError


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let the threads interrupt each other often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Recorded(RemoteCheckpoints):
    """Records the number of the state that is uploaded."""

    def __init__(self, folder: Path) -> None:
        super().__init__("s3://bucket/states/key", folder)
        self.state = self.copied = 0
        self.errors: list[Exception] = []

    def _copy(self) -> None:
        if self.errors:
            raise self.errors.pop()
        self.copied = self.state


@pytest.mark.usefixtures("frequent_switches")
def test_newest_state_is_always_uploaded(tmp_path: Path) -> None:
    """Also if it is saved while the thread of the previous upload is ending."""
    remote, pauses = Recorded(tmp_path), random.Random(0)
    for number in range(1, 4000):
        remote.state = number
        remote.save()
        for _ in range(pauses.randrange(100)):
            pass
        remote.state = -number
        remote.save()
        remote.finish()
        assert remote.copied == -number


@pytest.mark.parametrize("error", [UserError("no access"), OSError("disk"), ValueError("a fault of the program")])
def test_failed_upload_is_tried_once_more_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    remote = Recorded(tmp_path)
    remote.state, remote.errors = 1, [error]
    remote.save()
    wait_for(lambda: remote.failing)
    remote.finish()
    assert remote.copied == 1
    err = capsys.readouterr().err
    assert f"states cannot be uploaded ({error}); training continues" in err
    assert "uploads of states work again" in err


def test_lost_upload_is_reported_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remote = Recorded(tmp_path)
    remote.errors = [UserError("no access")] * 3
    remote.save()
    remote.finish()
    assert "the last state is not uploaded; it is in" in capsys.readouterr().err


class Bucket:
    """Copies of states in S3: step -> the copy is undamaged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, copies: dict[int, bool]) -> None:
        self.copies = copies
        for name in ("published_names", "download", "remove"):
            monkeypatch.setattr(s3, name, getattr(self, name))

    def published_names(self, _uri: str) -> list[str]:
        return [f"{step:012}" for step in self.copies]

    def download(self, uri: str, folder: Path) -> None:
        step = int(uri.rpartition("/")[2])
        if step not in self.copies:
            raise DataError(f"{uri}: contains no artifact")
        if not self.copies[step]:
            raise DataError(f"{uri}: {FILE} is corrupt; delete {uri}")
        folder.mkdir(parents=True)
        (folder / FILE).write_bytes(b"state")
        (folder / "train.tsv").write_text(f"{step} lines")
        write_manifest(folder, {"stage": "state", "key": folder.parent.name, "step": step})

    def remove(self, uri: str) -> None:
        del self.copies[int(uri.rpartition("/")[2])]


URI = "s3://bucket/states/key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The local folder of the run, with the state of step 10."""
    path = tmp_path / "key"
    path.mkdir()
    StateFolder(path).save(lambda file: file.write_bytes(b"local"), {}, 10)
    return path


def test_newest_copy_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(monkeypatch, {5: True, 10: True})
    RemoteCheckpoints(URI, folder).download()
    assert (folder / "state-1" / FILE).read_bytes() == b"local", "the local state is as new"
    bucket.copies[20] = True
    RemoteCheckpoints(URI, folder).download()
    assert StateFolder(folder).newest_step() == 20
    assert (folder / "train.tsv").read_text() == "20 lines"
    (folder / "state-2" / FILE).write_bytes(b"damaged")
    RemoteCheckpoints(URI, folder).download()
    assert StateFolder(folder).newest_step() == 20
    assert [path.name for path in StateFolder(folder).states()] == ["state-3", "state-2", "state-1"]


def test_damaged_copies(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = Bucket(monkeypatch, {20: True, 30: False, 40: False})
    RemoteCheckpoints(URI, folder).download()
    assert StateFolder(folder).newest_step() == 20
    for line, step in zip(capsys.readouterr().err.splitlines(), (40, 30), strict=True):
        uri = f"{URI}/{step:012}"
        assert line == f"train: warning: {uri}: {FILE} is corrupt; delete {uri}; an older state is used"
    assert bucket.copies == {20: True}
    bucket.copies = {40: False}
    RemoteCheckpoints(URI, folder).download()
    assert "an older state is used" in capsys.readouterr().err
    bucket.copies = {40: False}
    empty = folder.parent / "other" / "key"
    empty.mkdir(parents=True)
    with pytest.raises(DataError, match=f"corrupt; delete .*40, or delete {URI} to start the training again"):
        RemoteCheckpoints(URI, empty).download()
    assert bucket.copies == {40: False}


def test_copy_that_is_replaced_during_the_download(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, which is being stopped, uploads a newer copy and deletes this one."""
    bucket = Bucket(monkeypatch, {15: True})
    real = bucket.download

    def download(uri: str, target: Path) -> None:
        if uri.endswith("15"):
            bucket.copies = {20: True}
        real(uri, target)

    monkeypatch.setattr(s3, "download", download)
    RemoteCheckpoints(URI, folder).download()
    assert StateFolder(folder).newest_step() == 20


def test_state_is_deleted_while_its_files_are_linked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two further states were saved meanwhile."""
    real = Path.iterdir

    def listed(path: Path) -> Iterator[Path]:
        found = list(real(path))
        if path.name == "state-1" and path.parent == folder:
            states = StateFolder(folder)
            states.save(lambda file: file.write_bytes(b"newer"), {}, 20)
            path.rename(folder / ".old")
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert RemoteCheckpoints(URI, folder).take_snapshot(folder / ".copy") == 20
    assert (folder / ".copy" / FILE).read_bytes() == b"newer"
