"""`runs.tsv`: records of results, and estimates of durations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.runs import (
    Provenance,
    RunRecord,
    add_records,
    estimate,
    local_records,
    read_runs,
    stage_sections,
    write_runs,
)
from tests.conftest import ROOT
from tests.manifests import rewrite_manifest
from tests.pipeline.published_results import workspace  # noqa: F401 - a fixture
from trm.stages.params import load_params
from trm.stages.records import STAGES, Stage, producer
from trm.storage.artifacts import write_manifest
from trm.utils.errors import DataError

pytestmark = pytest.mark.usefixtures("workspace")
SECTIONS: dict[str, Any] = stage_sections(load_params(ROOT / "params.yaml"))
STAGE = {stage.name: stage for stage in STAGES}
SECONDS = {"fetch": 2.0, "augment": 4.0, "train": 100.0, "evaluate": 8.0, "report": 3.0}


def outputs(**train_timing: Any) -> None:
    """Write the outputs of an experiment as the stages do."""
    keys: dict[str, str] = {}
    for number, stage in enumerate(STAGES):
        folder = Path("outputs") / stage.output
        folder.mkdir(parents=True)
        keys[stage.name] = str(number) * 64
        facts = {"device": "cuda", "processes": 2, "steps": 2700} if stage.name == "train" else {}
        inputs = {name: keys[producer(name).name] for name in stage.inputs}
        params = {name: SECTIONS[name] for name in stage.sections}
        write_manifest(
            folder, {"stage": stage.name, "key": keys[stage.name], "inputs": inputs, "params": params, "facts": facts}
        )
        timing = {
            "key": keys[stage.name],
            "started": "2026-11-22T10:00:00+00:00",
            "seconds": SECONDS.get(stage.name, 1.0),
        }
        timing |= {"cores": 8, "machine": "x86_64", "host": "a-secret-host"}
        timing |= train_timing if stage.name == "train" else {}
        Path(f"outputs/{stage.output}.timing.json").write_text(json.dumps(timing))


def test_records_come_from_timing_files_and_are_kept() -> None:
    outputs(train_seconds=250.0)  # interrupted: the last attempt took 100 s
    origin = Provenance(commit="c", run="run-1", image="i", dvc_lock="d")
    add_records(origin)
    lines = read_runs()
    assert [line.stage for line in lines] == [stage.name for stage in STAGES]
    train = lines[2]
    assert (train.seconds, train.steps, train.work, train.gpus) == (250.0, 2700, SECTIONS["train"]["epochs"], 2)
    assert train.hardware == "2 x cuda, 8 cores x86_64"
    assert {(line.commit, line.run, line.image, line.dvc_lock) for line in lines} == {("c", "run-1", "i", "d")}
    before = Path("runs.tsv").read_bytes()
    assert b"host" not in before
    add_records(replace(origin, run="run-2"))
    assert Path("runs.tsv").read_bytes() == before


def test_outputs_of_another_experiment_are_ignored() -> None:
    outputs()
    rewrite_manifest(Path("outputs/model"), key="9" * 64)
    assert [line.stage for line in local_records()] == ["fetch", "augment"]


def with_(section: str, **changes: Any) -> dict[str, Any]:
    return SECTIONS | {section: SECTIONS[section] | changes}


def test_estimates_by_hand() -> None:
    outputs()
    known = local_records()
    epochs = SECTIONS["train"]["epochs"]
    found = estimate(STAGE["train"], "new", with_("train", epochs=3 * epochs, lr=0.5, seed=7), known)
    assert found is not None
    assert found[0] == pytest.approx(300.0)
    votes = estimate(
        STAGE["evaluate"], "new", with_("evaluate", num_votes=8 * SECTIONS["evaluate"]["num_votes"]), known
    )
    assert votes is not None
    assert votes[0] == pytest.approx(64.0)
    # No estimate for another model or batch size.
    assert estimate(STAGE["train"], "new", with_("model", hidden_size=128), known) is None
    assert estimate(STAGE["train"], "new", with_("train", global_batch_size=64), known) is None
    # The newest similar record is used.
    newer = [*known, replace(known[2], started="2027-01-01T00:00:00+00:00", seconds=50.0, key="x")]
    newest = estimate(STAGE["train"], "new", SECTIONS, newer)
    assert newest is not None
    assert newest[0] == 50.0


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n", "stage\tkey\n", "{header}\nfetch\tonly\n"])
def test_unreadable_runs_file_is_reported(text: str) -> None:
    write_runs([])
    header = Path("runs.tsv").read_text().rstrip("\n")
    Path("runs.tsv").write_text(text.format(header=header))
    with pytest.raises(DataError, match=r"runs\.tsv: not written by `collect`; resolve the merge conflict"):
        read_runs()
    assert len(header.split("\t")) == len(RunRecord.__dataclass_fields__)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_duration_settings_exist_in_params(stage: Stage) -> None:
    """A renamed setting must be renamed in the stage record too."""
    assert set(stage.sections) <= set(stage.duration_sections)
    for name in stage.duration_invariant:
        section, _, key = name.partition(".")
        assert section in stage.sections
        assert key in SECTIONS[section], name
    assert stage.work(SECTIONS) >= 1
