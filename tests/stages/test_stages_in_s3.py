"""Stages that write to S3: existing results are not recomputed, and damaged files are not uploaded."""

from pathlib import Path

import pytest

from pipeline.local.s3_server import SeaweedFS
from tests.params import params_text
from tests.seaweed import objects
from trm.config.recipes import recipe_text
from trm.stages.content_keys import content_keys, requests
from trm.stages.params import load_params
from trm.stages.records import STAGES, Stage
from trm.stages.runner import run_stage
from trm.storage import s3
from trm.storage.artifact_cache import folder_of
from trm.utils.errors import UserError

FETCH: Stage = STAGES[0]


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, object]:
    source = {"type": "generate", "train_puzzles": 5, "test_puzzles": 2, "clues": 8, "seed": 0}
    (tmp_path / "params.yaml").write_text(params_text({"data.source": source}, recipe_text("sudoku-4x4")))
    return {"data": load_params(tmp_path / "params.yaml").data}


@pytest.fixture
def uri(root: str, sections: dict[str, object], tmp_path: Path) -> str:
    return f"{root}/fetch/{content_keys(load_params(tmp_path / 'params.yaml'))['fetch']}"


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Output folders of actual calls of fetch."""
    import trm.datasets.fetch as module

    real, calls = module.fetch, []

    def fetch(data: object, out: Path, key: str) -> dict[str, object]:
        calls.append(out)
        return real(data, out, key)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "fetch", fetch)
    return calls


def test_nothing_is_computed_twice(
    root: str, uri: str, sections: dict[str, object], seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls(monkeypatch)
    run_stage(FETCH, sections, {}, root)
    assert len(calls) == 1
    before = objects(seaweed, uri)
    run_stage(FETCH, sections, {}, uri)
    assert (len(calls), objects(seaweed, uri)) == (1, before)
    # The local copy is uploaded again if it is missing in S3, without recomputation.
    s3.put_json(f"{uri}/timing.json", {})
    run_stage(FETCH, sections, {}, f"{root}/elsewhere")
    assert len(calls) == 1
    manifest = s3.read_manifest(uri)
    assert manifest is not None
    assert s3.read_manifest(uri.replace("/fetch/", "/elsewhere/fetch/")) == manifest


def test_damaged_local_copy_is_recomputed(
    root: str, uri: str, sections: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls(monkeypatch)
    run_stage(FETCH, sections, {}, root)
    with (folder_of(uri) / "test.csv").open("ab") as file:
        file.write(b"x")
    run_stage(FETCH, sections, {}, f"{root}/elsewhere")
    assert len(calls) == 2
    assert s3.read_manifest(uri.replace("/fetch/", "/elsewhere/fetch/")) == s3.read_manifest(uri)


@pytest.mark.parametrize("out", ["S3://trm/x", "s3:/trm/x"])
def test_invalid_uri_creates_no_folder(
    sections: dict[str, object], out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="write it as s3://bucket/folder"):
        run_stage(FETCH, sections, {}, out)
    assert sorted(tmp_path.iterdir()) == before


def test_requests_contain_the_content_keys(tmp_path: Path, sections: dict[str, object]) -> None:
    params = load_params(tmp_path / "params.yaml")
    assert {name: request["key"] for name, request in requests(params).items()} == content_keys(params)
