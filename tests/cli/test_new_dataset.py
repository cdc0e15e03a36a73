"""`trm new-dataset`: the files in a copy of the checkout, their tests, and names that are refused."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.preload import python
from trm.cli.new_dataset import write_dataset
from trm.utils.errors import UserError


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "checkout"
    shutil.copytree(ROOT / "trm", folder / "trm", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests/datasets").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [python(), *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_new_dataset_passes_its_test(checkout: Path) -> None:
    done = run(checkout, "-m", "trm", "new-dataset", "zoo")
    assert (done.returncode, done.stdout.splitlines()[:3]) == (
        0,
        ["  trm/datasets/zoo/__init__.py", "  trm/datasets/zoo/dataset.py", "  tests/datasets/test_zoo.py"],
    )
    tested = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/datasets/test_zoo.py")
    assert (tested.returncode, "3 passed" in tested.stdout) == (0, True), tested.stdout
    for command in (["check"], ["format", "--check"]):
        linted = run(checkout, "-m", "ruff", *command, "trm/datasets/zoo", "tests/datasets/test_zoo.py")
        assert linted.returncode == 0, linted.stdout
    again = run(checkout, "-m", "trm", "new-dataset", "zoo")
    message = "trm: new-dataset: the name zoo is taken, by trm/datasets/zoo; choose another one\n"
    assert (again.returncode, again.stdout, again.stderr) == (2, "", message)


@pytest.mark.parametrize("name", ["", "Zoo", "1st", "my-rows", "a/b", "..", "class", "zoo\n"])
def test_invalid_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^new-dataset: a name has lower-case letters, digits and _ and"):
        write_dataset(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "where"), [("sudoku", ", by trm/datasets/sudoku"), ("fetch", ".*"), ("tokens", "")])
def test_taken_name(name: str, where: str) -> None:
    with pytest.raises(UserError, match=rf"^new-dataset: the name {name} is taken{where}; choose another one$"):
        write_dataset(name, ROOT)


@pytest.mark.parametrize("fails", ["__init__.py", "dataset.py", "test_zoo.py"])
def test_nothing_is_left_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """A file can be written in part only; afterwards the command works."""
    for folder in ("trm/datasets", "tests/datasets"):
        (tmp_path / folder).mkdir(parents=True)
    real = Path.write_text

    def write(path: Path, text: str, encoding: str) -> int:
        if path.name == fails:
            real(path, text[: len(text) // 2], encoding=encoding)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, text, encoding=encoding)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write)
        with pytest.raises(OSError, match="No space left"):
            write_dataset("zoo", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name == "zoo"]
    assert len(write_dataset("zoo", tmp_path)) == 3


def test_installed_without_source(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "trm", tmp_path / "trm", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(tmp_path, "-m", "trm", "new-dataset", "zoo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("trm: new-dataset: trm is installed without its source")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "trm/datasets/zoo").exists()
