"""The stage commands: a complete experiment, and errors, which leave no output behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.conftest import SOLUTION
from trm.stages.content_keys import content_keys
from trm.stages.params import load_params
from trm.stages.records import REQUIRED_STAGES
from trm.storage.artifacts import MANIFEST


def _csv(rows: list[str], header: str = "source,question,answer,rating") -> str:
    return "\n".join([header, *rows]) + "\n"


GOOD = f"made,{'.' * 4}{SOLUTION[4:]},{SOLUTION},0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_csv([GOOD, GOOD[:30]]), ("line 3",)),
        (_csv([GOOD, f"made,{SOLUTION},{SOLUTION[::-1][:-1]}9,0"]), ("line 3", "answer")),
        (_csv([f"made,{'.' * 16},{'1' * 16},0"]), ("line 2", "answer")),
        (_csv([f"made,2{'.' * 15},{SOLUTION},0"]), ("line 2", "clue")),
        (_csv([GOOD], header="source,question,answer"), ("train.csv",)),
        ("", ("train.csv",)),
        ("\x00\xff\x00", ("train.csv",)),
    ],
)
def test_invalid_csv(run: Run, here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "train.csv").write_bytes(text.encode("latin-1"))
    (here / "test.csv").write_text(_csv([GOOD]))
    _use_paths(here)
    check_error(run("fetch"), *words)
    assert sorted(path.name for path in here.iterdir()) == ["params.yaml", "test.csv", "train.csv"]


def _use_paths(here: Path, sha256: str = "null", type: str = "path", train: str = "train.csv") -> None:
    text = (here / "params.yaml").read_text()
    rest = "test_sha256: null, min_rating: null, subsample: null, seed: 0"
    source = f"source: {{type: {type}, train: '{train}', test: '{train}', train_sha256: {sha256}, {rest}}}"
    changed, count = re.subn(r"source:\n(    .*\n)+", source + "\n", text)
    assert count == 1
    (here / "params.yaml").write_text(changed)


def test_wrong_checksum(run: Run, here: Path) -> None:
    (here / "train.csv").write_text(_csv([GOOD]))
    _use_paths(here, sha256="ab" * 32)
    check_error(run("fetch"), "data.source.train_sha256", "ab" * 32, "train.csv")
    assert not (here / "outputs").exists()


def test_missing_source(run: Run, here: Path) -> None:
    _use_paths(here)
    check_error(run("fetch"), "data.source.train", "train.csv")
    assert not (here / "outputs").exists()


@pytest.mark.slow
def test_no_network(run: Run, here: Path) -> None:
    _use_paths(here, type="url", train="http://127.0.0.1:9/train.csv")  # the discard port, where no server listens
    check_error(run("fetch"), "127.0.0.1:9")
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("stage", ["augment", "train", "evaluate", "report"])
def test_missing_input(run: Run, here: Path, stage: str) -> None:
    check_error(run(stage), "no manifest.json", "or `trm run`")
    assert not (here / "outputs").exists()


def test_input_of_another_stage(run: Run, here: Path, finished: Path) -> None:
    check_error(run("train", "--dataset", finished / "outputs/raw"), "was written by stage fetch")
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("stage", "folder", "file"),
    [
        ("augment", "raw", "train.csv"),
        ("train", "dataset", "train/examples.parquet"),
        ("evaluate", "model", "checkpoint.safetensors"),
        ("report", "evaluation", "predictions.parquet"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_input(run: Run, here: Path, finished: Path, stage: str, folder: str, file: str, damage: str) -> None:
    shutil.copytree(finished / "outputs", here / "outputs")
    shutil.rmtree(here / "outputs/report")
    path = here / "outputs" / folder / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 255
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    check_error(run(stage), file, "delete", "run `trm run`")
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


def test_foreign_output_folder_is_kept(run: Run, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine/thesis.tex").write_text("precious")
    check_error(run("fetch", "--raw", "mine"), "mine: exists and was not written by a stage")
    assert (here / "mine/thesis.tex").read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a small file system needs Linux and root")
@pytest.mark.parametrize(
    ("stage", "size"), [("fetch", "4k"), ("augment", "8k"), ("train", "64k"), ("evaluate", "8k"), ("report", "32k")]
)
def test_full_disk(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, stage: str, size: str
) -> None:
    small = here / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=64", "tmpfs", small], check=True)
    monkeypatch.setenv("TRM_STATE_DIR", str(here / "states"))
    try:
        record = next(each for each in REQUIRED_STAGES if each.name == stage)
        flags = [f"--{name}={finished / 'outputs' / name}" for name in record.inputs]
        check_error(run(stage, *flags, f"--{record.output}={small / 'out'}"), "no space left", "free some")
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_finished_experiment(run: Run, finished: Path) -> None:
    outputs = finished / "outputs"
    metrics = json.loads((outputs / "evaluation/metrics.json").read_text())
    assert metrics["puzzles"] == 10
    assert 0 <= metrics["exact_accuracy"] <= metrics["cell_accuracy"] <= 1
    for folder in (stage.output for stage in REQUIRED_STAGES):
        manifest = json.loads((outputs / folder / MANIFEST).read_text())
        timing = json.loads((outputs / f"{folder}.timing.json").read_text())
        assert timing["key"] == manifest["key"]
        assert '"seconds"' not in json.dumps(manifest)
        code, out, _ = run("inspect", outputs / folder)
        assert code == 0
        assert manifest["key"] in "".join(out.split())
    assert not [path for path in outputs.iterdir() if path.name.startswith(".")]


def test_keys_follow_from_the_params(finished: Path) -> None:
    keys = content_keys(load_params(finished / "params.yaml"))
    for stage in REQUIRED_STAGES:
        manifest = json.loads((finished / "outputs" / stage.output / MANIFEST).read_text())
        assert manifest["key"] == keys[stage.name]
