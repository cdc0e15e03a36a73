"""Requests for uploads of the training state, without S3: none is lost. tests/integration tests the uploads."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components.train.fake_training_operator import wait_for
from trm.storage import s3
from trm.training.remote_checkpoints import FILE, RemoteCheckpoints
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
    wait_for(lambda: remote._failing)
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


def test_copy_that_is_replaced_during_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, which is being stopped, uploads a newer copy and deletes this one."""
    names = ["000000000010"]

    def download(uri: str, folder: Path) -> None:
        if uri.endswith("10"):
            names[:] = ["000000000020", "not-a-step"]
            raise DataError(f"{uri}: contains no artifact")
        folder.mkdir(parents=True)
        (folder / FILE).write_text("state 20")

    monkeypatch.setattr(s3, "published_names", lambda uri: list(names))
    monkeypatch.setattr(s3, "download", download)
    RemoteCheckpoints("s3://bucket/states/key", tmp_path).download()
    assert (tmp_path / FILE).read_text() == "state 20"
    (tmp_path / FILE).unlink()
    monkeypatch.setattr(s3, "published_names", lambda uri: ["000000000010"])
    with pytest.raises(DataError, match="contains no artifact"):
        RemoteCheckpoints("s3://bucket/states/key", tmp_path).download()
