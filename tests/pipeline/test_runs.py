"""`runs.tsv`: what stages took, from their timing files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.runs import Origin, Recorded, add_runs, expected, read_runs, runs_here, sections_of, write_runs
from tests.conftest import ROOT
from tests.pipeline.published_results import workspace  # noqa: F401 - a fixture
from trm.artifacts import write_manifest
from trm.config import load_params
from trm.errors import DataError
from trm.stages import STAGES, producer

pytestmark = pytest.mark.usefixtures("workspace")
SECTIONS: dict[str, Any] = sections_of(load_params(ROOT / "params.yaml"))
SECONDS = {"fetch": 2.0, "augment": 4.0, "train": 100.0, "evaluate": 8.0, "report": 3.0}


def outputs(**train_timing: Any) -> None:
    """The five outputs of an experiment, as stages leave them."""
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
        timing = {"key": keys[stage.name], "started": "2026-11-22T10:00:00+00:00", "seconds": SECONDS[stage.name]}
        timing |= {"cores": 8, "machine": "x86_64", "host": "a-secret-host"}
        timing |= train_timing if stage.name == "train" else {}
        Path(f"outputs/{stage.output}.timing.json").write_text(json.dumps(timing))


def test_lines_come_from_the_timing_files_and_stay() -> None:
    outputs(train_seconds=250.0)  # it was stopped: the last attempt alone took 100
    origin = Origin(commit="c", run="run-1", image="i", dvc_lock="d")
    add_runs(origin)
    lines = read_runs()
    assert [line.stage for line in lines] == [stage.name for stage in STAGES]
    train = lines[2]
    assert (train.seconds, train.steps, train.work, train.gpus) == (250.0, 2700, SECTIONS["train"]["epochs"], 2)
    assert train.hardware == "2 x cuda, 8 cores x86_64"
    assert {(line.commit, line.run, line.image, line.dvc_lock) for line in lines} == {("c", "run-1", "i", "d")}
    before = Path("runs.tsv").read_bytes()
    assert b"host" not in before
    add_runs(replace(origin, run="run-2"))
    assert Path("runs.tsv").read_bytes() == before


def test_outputs_that_are_not_of_one_experiment_are_left_out() -> None:
    outputs()
    manifest = Path("outputs/model/manifest.json")
    manifest.write_text(manifest.read_text().replace("1" * 64, "9" * 64))
    assert [line.stage for line in runs_here()] == ["fetch", "augment"]


def with_(section: str, **changes: Any) -> dict[str, Any]:
    return SECTIONS | {section: SECTIONS[section] | changes}


def test_what_is_expected_by_hand() -> None:
    outputs()
    known = runs_here()
    epochs = SECTIONS["train"]["epochs"]
    found = expected("train", "new", with_("train", epochs=3 * epochs, lr=0.5, seed=7), known)
    assert found is not None
    assert found[0] == pytest.approx(300.0)
    votes = expected("evaluate", "new", with_("evaluate", votes=8 * SECTIONS["evaluate"]["votes"]), known)
    assert votes is not None
    assert votes[0] == pytest.approx(64.0)
    # Another model, batch or machine setting takes another time: nobody guesses.
    assert expected("train", "new", with_("model", hidden_size=128), known) is None
    assert expected("train", "new", with_("train", global_batch_size=64), known) is None
    # The newest that is like it tells.
    newer = [*known, replace(known[2], started="2027-01-01T00:00:00+00:00", seconds=50.0, key="x")]
    newest = expected("train", "new", SECTIONS, newer)
    assert newest is not None
    assert newest[0] == 50.0


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n", "stage\tkey\n", "{header}\nfetch\tonly\n"])
def test_a_file_that_cannot_be_read_is_told(text: str) -> None:
    write_runs([])
    header = Path("runs.tsv").read_text().rstrip("\n")
    Path("runs.tsv").write_text(text.format(header=header))
    with pytest.raises(DataError, match=r"runs\.tsv: is not what `collect` wrote; resolve its conflict"):
        read_runs()
    assert len(header.split("\t")) == len(Recorded.__dataclass_fields__)
