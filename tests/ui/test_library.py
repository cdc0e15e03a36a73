"""Which models and datasets the page can open."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from tests.ui.conftest import Session
from tests.ui.folders import save
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.datasets.maze.dataset import maze_meta
from trm.reporting.terminal.demo import MODEL
from trm.serving.service import ServedModel, ServerLimits
from trm.ui.library import MAX_OPEN, Library
from trm.utils.errors import UserError


@contextmanager
def library_of(*folders: Path) -> Iterator[Library]:
    limits = ServerLimits(max_wait=0)

    def open_model(name: str, folder: Path) -> ServedModel:
        return ServedModel(name, folder, DEFAULT_INFERENCE, limits, "cpu", any_puzzle=False)

    library = Library(folders, ("demo", MODEL), open_model)
    yield library
    for model in library.opened.values():
        model.close()


def refusal(library: Library, name: str) -> tuple[int, str]:
    with pytest.raises(HTTPException) as refused:
        library.model(name)
    return refused.value.status_code, refused.value.detail


def test_models_of_the_folders(session: Session, folders: Path) -> None:
    names = [entry.name for entry in session.library.models()]
    parts = ["arc/model", "custom/model", "maze/model", "maze/other", "sums/model"]
    assert names == [*(str(folders / part) for part in parts), "demo"]
    with library_of(folders / "maze/model") as library:
        assert [entry.name for entry in library.models()] == [str(folders / "maze/model"), "demo"]


def test_what_is_not_listed(tmp_path: Path, folders: Path) -> None:
    """Hidden folders and links; a damaged model is listed with the reason."""
    named = tmp_path / "named"
    (named / "damaged").mkdir(parents=True)
    (named / "damaged/checkpoint.safetensors").write_text("no checkpoint")
    (named / ".hidden").mkdir()
    (named / ".hidden/checkpoint.safetensors").write_text("")
    (named / "link").symlink_to(folders / "maze/model")
    with library_of(named) as library:
        damaged, demo = library.models()
        assert (damaged.name, damaged.meta, demo.name) == (str(named / "damaged"), None, "demo")
        assert damaged.problem
        with pytest.raises(UserError, match="damaged"):
            library.model(damaged.name)


def test_folders_outside_are_refused(tmp_path: Path, folders: Path, model_params: ModelParams) -> None:
    """By their path, by `..`, and by links; the answer does not depend on what is there."""
    named, outside = tmp_path / "named", folders / "maze/model"
    save(named / "own", model_params, maze_meta(4))
    (named / "link").symlink_to(outside)
    (named / "loop").symlink_to(named / "loop")
    (named / "files").mkdir()
    (named / "files/checkpoint.safetensors").symlink_to(outside / "checkpoint.safetensors")
    (named / "inner").symlink_to(named / "own")
    with library_of(named) as library:
        reason = "is not inside the folders that were named at start, or has links out of them"
        assert [entry.name for entry in library.models()] == [str(named / "own"), "demo"]
        up = f"{named}/../../{outside.relative_to('/')}"
        for name in (
            str(outside),
            f"{outside}x",
            up,
            "/etc",
            "s3://bucket/model",
            "hf://owner/name",
            "a\0b",
            "a" * 5000,
        ):
            assert refusal(library, name) == (403, f"{name}: {reason}")
        for name in ("link", "loop", "files"):
            assert refusal(library, str(named / name)) == (403, f"{named / name}: {reason}")
        assert refusal(library, str(named)) == (403, f"{named}: {reason}")  # some of its files are links
        assert library.model(str(named / "inner")).meta.height == 4
        assert library.model(f"{named}/x/../own").meta.height == 4
        (named / "empty").mkdir()
        assert refusal(library, str(named / "empty"))[0] == 404
        assert refusal(library, str(named / "nothing"))[0] == 404


def test_named_folders_may_be_links(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "link").symlink_to(folders / "maze")
    with library_of(tmp_path / "link") as library:
        name = str(tmp_path / "link/model")
        assert name in [entry.name for entry in library.models()]
        assert library.model(name).meta.name == "maze"


def test_few_models_are_in_memory(tmp_path: Path, model_params: ModelParams) -> None:
    """The one that was not used for the longest time is dropped, but never the default."""
    for size in range(4, 4 + MAX_OPEN + 1):
        save(tmp_path / str(size), model_params, maze_meta(size))
    with library_of(tmp_path) as library:
        names = [str(tmp_path / str(size)) for size in range(4, 4 + MAX_OPEN + 1)]
        for name in names[:MAX_OPEN]:
            library.model(name)
        first = library.model(names[0])
        library.model(names[MAX_OPEN])
        assert set(library.opened) == {"demo", *names} - {names[1]}
        assert next(iter(library.opened)) == "demo"
        assert library.model(names[0]) is first
        assert library.model("demo").meta.name == "sudoku"


def test_a_model_that_is_written_again(tmp_path: Path, model_params: ModelParams) -> None:
    save(tmp_path / "model", model_params, maze_meta(4))
    with library_of(tmp_path) as library:
        name = str(tmp_path / "model")
        before = library.model(name)
        assert library.model(name) is before
        shutil.rmtree(tmp_path / "model")
        save(tmp_path / "model", model_params, maze_meta(5))
        os.utime(tmp_path / "model/checkpoint.safetensors", ns=(1, 1))
        assert library.model(name).meta.height == 5


def test_a_folder_with_the_name_of_the_included_model(
    tmp_path: Path, model_params: ModelParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "demo", model_params, maze_meta(4))
    monkeypatch.chdir(tmp_path)
    with library_of(Path()) as library:
        assert [entry.name for entry in library.models()] == ["./demo", "demo"]
        assert library.model("./demo").meta.name == "maze"
        assert library.model("demo").meta.name == "sudoku"


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: is not a folder"):
        Library([tmp_path / "nothing"], ("demo", MODEL), lambda *_: pytest.fail("not loaded"))
