"""Experiments from Python: the same results as the commands."""

import json
from pathlib import Path

import pytest

import trm
from tests.params import TINY, params_text
from trm.stages.records import REQUIRED_STAGES, Stage
from trm.storage.artifacts import read_manifest


def test_all_stages(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "params.yaml").write_text(params_text(TINY))
    params = trm.load_params(tmp_path / "params.yaml")
    seen: list[tuple[str, str]] = []

    def after(stage: Stage, folder: Path) -> None:
        seen.append((stage.name, folder.name))

    metrics = trm.run(params, tmp_path / "outputs", after)
    assert seen == [(stage.name, stage.output) for stage in REQUIRED_STAGES]
    assert metrics == json.loads((finished / "outputs/evaluation/metrics.json").read_text())
    for stage in REQUIRED_STAGES:
        ours, theirs = (folder / "outputs" / stage.output for folder in (tmp_path, finished))
        assert read_manifest(ours)["key"] == read_manifest(theirs)["key"]
    assert [line for line in capsys.readouterr().err.splitlines() if line.endswith(": runs")] == [
        f"{stage.name} ({number} of 5): runs" for number, stage in enumerate(REQUIRED_STAGES, 1)
    ]
    assert trm.run(str(tmp_path / "params.yaml"), tmp_path / "outputs") == metrics
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{stage.name} ({number} of 5): skipped" for number, stage in enumerate(REQUIRED_STAGES, 1)
    ]


def test_single_stages(tmp_path: Path, finished: Path) -> None:
    values = trm.load_params(finished / "params.yaml").model_dump(mode="json")
    dataset = finished / "outputs/dataset"
    model, meta = trm.train(values, dataset, tmp_path / "model")
    assert (meta.height, meta.width) == (4, 4)
    theirs, _ = trm.load_checkpoint(finished / "outputs/model")
    assert all((one == other).all() for one, other in zip(model.parameters(), theirs.parameters(), strict=True))
    metrics = trm.evaluate(values, dataset, tmp_path / "model", tmp_path / "evaluation")
    assert metrics == json.loads((finished / "outputs/evaluation/metrics.json").read_text())


def test_invalid_params(tmp_path: Path) -> None:
    with pytest.raises(trm.ParamsError, match="params: "):
        trm.run({"data": {}}, tmp_path / "outputs")
    with pytest.raises(trm.ParamsError, match="missing.yaml"):
        trm.run(tmp_path / "missing.yaml")
    assert list(tmp_path.iterdir()) == []
