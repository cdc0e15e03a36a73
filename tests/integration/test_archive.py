"""An archive of the repository, as GitHub offers for download: the files without Git."""

import shutil
from pathlib import Path

import pytest

from tests.clones import make_clone

pytestmark = pytest.mark.slow


def test_pipeline_without_git(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    shutil.rmtree(clone.folder / ".git")
    clone.environment["GIT_CEILING_DIRECTORIES"] = str(tmp_path)
    clone.run("make repro")
    assert (clone.folder / "outputs/report/report.html").is_file()
    assert clone.ran("make repro") == []
