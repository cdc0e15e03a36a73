"""Files that are replaced, and errors of the operating system that libraries report as their own."""

import errno
import re
from pathlib import Path

import pytest
from safetensors import SafetensorError

from trm.utils.paths import replace_file
from trm.utils.safetensors_errors import os_errors


def test_a_replaced_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    target, link = tmp_path / "mine/params.yaml", tmp_path / "params.yaml"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("mine/params.yaml")
    replace_file(link, "new")
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o640)
    assert [path.name for path in target.parent.iterdir()] == ["params.yaml"]


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(file, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("params.yaml", "old")]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RuntimeError("unable to open file <x> in read-only mode: Permission denied (13)"), errno.EACCES),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
    ],
)
def test_errors_of_the_operating_system(error: Exception, number: int) -> None:
    with pytest.raises(OSError, match="x.safetensors") as raised, os_errors(Path("x.safetensors")):
        raise error
    assert raised.value.errno == number


@pytest.mark.parametrize("message", ["invalid header (13)", "shape (28)", "damaged"])
def test_other_errors_pass(message: str) -> None:
    with pytest.raises(SafetensorError, match=re.escape(message)), os_errors(Path("x")):
        raise SafetensorError(message)
