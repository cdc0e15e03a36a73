"""Publishing a folder beside other processes, which may have the same pid in another container."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trm.storage.artifacts import read_manifest, staged, verified_manifest, write_manifest
from trm.utils.errors import DataError, UserError

WRITER = """
import sys, time
from pathlib import Path
from trm.storage.artifacts import read_manifest, staged, write_manifest
with staged(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("written")
    print("begun", flush=True)
    time.sleep(60)
"""


def _write(out: Path, text: str) -> None:
    with staged(out) as folder:
        (folder / "file").write_text(text)
        write_manifest(folder, {"stage": "fetch", "key": text})


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as one:
        (one / "file").write_text("one")
        with staged(out) as other:  # the same pid, as in two containers
            assert one != other
            (other / "file").write_text("other")
            write_manifest(other, {"stage": "fetch", "key": "other"})
        assert verified_manifest(out)["key"] == "other"
        assert (one / "file").read_text() == "one"
        write_manifest(one, {"stage": "fetch", "key": "one"})
    assert verified_manifest(out)["key"] == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITER, str(out)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
    assert len(list(tmp_path.glob(".out.partial-*/half"))) == 2
    writers[0].kill()
    writers[0].wait()
    _write(out, "third")
    assert len(list(tmp_path.glob(".out.partial-*/half"))) == 1
    os.kill(writers[1].pid, signal.SIGKILL)
    writers[1].wait()
    time.sleep(0.1)
    _write(out, "fourth")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged(tmp_path / "new" / "out") as folder:
        (folder / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../here"])
def test_the_current_folder_is_not_replaced(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    _write(here, "an output")
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match="is the current folder, or contains it"), staged(Path(name)):
        pass
    assert verified_manifest(here)["key"] == "an output"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to("disk/out")
    with pytest.raises(UserError, match=r"out: a link to .*disk/out, which does not exist"), staged(link):
        pass
    (tmp_path / "disk/out").mkdir()
    for text in ("one", "other"):
        _write(link, text)
        assert link.is_symlink()
        assert verified_manifest(tmp_path / "disk/out")["key"] == text
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


def test_a_kill_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next writer first finishes the replacement. If it fails itself, the folder is the finished one."""
    out, rename = tmp_path / "out", Path.rename
    _write(out, "old")

    def killed(path: Path, target: Path) -> Path:
        if path.name.startswith(".out.partial-"):
            os._exit(9)
        return rename(path, target)

    if (child := os.fork()) == 0:
        monkeypatch.setattr(Path, "rename", killed)
        _write(out, "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not out.exists()
    with pytest.raises(RuntimeError), staged(out):
        raise RuntimeError
    assert verified_manifest(out)["key"] == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replacement_that_fails_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    _write(out, "old")

    def refused(path: Path, target: Path) -> Path:
        if path.name.startswith(".out.partial-"):
            raise PermissionError(13, "Permission denied", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        _write(out, "new")
    assert verified_manifest(out)["key"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_lock_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-0123456789abcdef.lock").touch()
    (tmp_path / ".out.partial-mine.lock").touch()
    _write(tmp_path / "out", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.partial-mine.lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder of Linux")
def test_a_folder_that_the_system_refuses() -> None:
    with pytest.raises(OSError, match="/proc/"), staged(Path("/proc/out")):
        pass


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: file.write_text("onf"), "corrupt, its SHA-256 differs from the manifest"),
        (lambda file: file.write_text("longer"), "corrupt, its SHA-256 differs from the manifest"),
        (lambda file: file.unlink(), "is missing"),
    ],
    ids=["content", "size", "missing"],
)
def test_changed_files_are_reported(tmp_path: Path, change: Callable[[Path], object], problem: str) -> None:
    out = tmp_path / "out"
    _write(out, "one")
    change(out / "file")
    assert read_manifest(out)["key"] == "one"
    with pytest.raises(DataError, match=f"{out / 'file'}: {problem}; delete {out} and run `dvc repro`"):
        verified_manifest(out)
