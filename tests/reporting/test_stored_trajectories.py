"""The page reuses the trajectories that the evaluation has stored, where the settings are equal."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.experiments import Experiment, solving_experiment
from trm.evaluation.stored_trajectories import FILE, StoredTrajectories
from trm.storage.artifacts import write_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment with votes and a sweep; all 12 test puzzles are stored."""
    return solving_experiment(tmp_path_factory.mktemp("experiment") / "solving")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits whose records are read."""
    splits: list[str] = []
    read = StoredTrajectories.read

    def spy(file: Path, split: str, steps: int) -> StoredTrajectories:
        splits.append(split)
        return read(file, split, steps)

    monkeypatch.setattr(StoredTrajectories, "read", spy)
    return splits


def test_the_page_with_records_is_that_without(experiment: Experiment, reads: list[str]) -> None:
    page = experiment.report("with")
    assert reads == ["validation", "test"]
    file = experiment.folder / "evaluation" / FILE
    content = file.read_bytes()
    file.unlink()
    assert experiment.report("without") == page
    assert len(reads) == 2
    file.write_bytes(content)


def edited(experiment: Experiment, name: str, changes: dict[str, Any]) -> str:
    """The page of an evaluation whose manifest has other settings or facts."""
    folder = experiment.folder / "evaluation"
    file = folder / "manifest.json"
    text = file.read_text()
    manifest = json.loads(text)
    for key, value in changes.items():
        section = manifest["facts"] if key in manifest["facts"] else manifest["params"]["evaluate"]
        assert key in section
        section[key] = value
    file.unlink()
    write_manifest(folder, {name: value for name, value in manifest.items() if not name.startswith("manifest")})
    try:
        return experiment.report(name)
    finally:
        file.write_text(text)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"precision": "bfloat16"}, {"device": "cuda"}, {"max_steps": 7}], ids=str
)
def test_records_of_other_settings_are_not_used(
    experiment: Experiment, reads: list[str], changes: dict[str, Any]
) -> None:
    edited(experiment, "-".join(changes), changes)
    assert reads == []
