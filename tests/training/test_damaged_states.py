"""Trainings with damaged states: they resume from an older one, and publish the bytes of an undamaged training."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import crash
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.storage.artifacts import MANIFEST, intact_manifest, write_manifest
from trm.training import checkpoint, trainer
from trm.training.checkpoint import read_header, write_tensors
from trm.training.state_folder import FILE, StateFolder
from trm.training.trainer import train
from trm.utils.errors import DataError, Interrupted
from trm.utils.paths import states_folder

KEY, STEP = "key", 17
"""The step of the interruption: the states are those of steps 15 and 17."""
Train = Callable[[], dict[str, bytes]]


@pytest.fixture
def resume(dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path) -> Train:
    """Trains with the state in the folder of states; returns the published files."""

    def run() -> dict[str, bytes]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        train(model_params, train_params, dataset, out, KEY)
        return {path.name: path.read_bytes() for path in out.iterdir()}

    return run


@pytest.fixture(scope="module")
def _prepared(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """The states folder of an interrupted training, and the files of an uninterrupted one."""
    folder, step, calls = tmp_path_factory.mktemp("prepared"), trainer.train_step, []

    def interrupted(*arguments: Any) -> object:  # noqa: ANN401
        calls.append(None)
        if len(calls) == STEP + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRM_STATE_DIR", str(folder / "whole"))
        (folder / "out").mkdir()
        train(model_params, train_params, dataset, folder / "out", KEY)
        patch.setenv("TRM_STATE_DIR", str(folder / "interrupted"))
        patch.setattr(trainer, "train_step", interrupted)
        with pytest.raises(Interrupted):
            train(model_params, train_params, dataset, folder / "out", KEY)
    yield folder / "interrupted", {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


@pytest.fixture
def run(_prepared: tuple[Path, dict[str, bytes]]) -> Path:
    """The folder of the interrupted training, in the folder of states of this test."""
    shutil.copytree(_prepared[0], states_folder())
    assert StateFolder(states_folder() / KEY).newest_step() == STEP
    return states_folder() / KEY


@pytest.fixture
def expected(_prepared: tuple[Path, dict[str, bytes]]) -> dict[str, bytes]:
    return _prepared[1]


def cut_and_extend(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def replace_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of a state, and give its manifest the new digest."""
    header, tensors = read_header(path), load_file(path)
    change(header)
    write_tensors(path, tensors, header)
    sign(path.parent)


def sign(state: Path) -> None:
    manifest = intact_manifest(state)
    facts = {name: manifest[name] for name in ("stage", "key", "step")}
    (state / MANIFEST).unlink()
    write_manifest(state, facts)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "flipped bit": (FILE, flip, "corrupt"),
    "empty state": (FILE, lambda path: os.truncate(path, 0), "corrupt"),
    "missing state": (FILE, Path.unlink, "is missing"),
    "empty checkpoint": (checkpoint.FILE, lambda path: os.truncate(path, 0), "corrupt"),
    "flipped bit of the checkpoint": (checkpoint.FILE, flip, "corrupt"),
    "missing checkpoint": (checkpoint.FILE, Path.unlink, "is missing"),
    "log with NUL bytes": ("train.tsv", cut_and_extend, "corrupt"),
    "missing manifest": (MANIFEST, Path.unlink, "is missing"),
    "cut manifest": (MANIFEST, lambda path: os.truncate(path, 40), "corrupt"),
    "no position": (
        FILE,
        lambda path: replace_header(path, lambda header: header.pop("position")),
        "no valid position",
    ),
    "no key": (FILE, lambda path: replace_header(path, lambda header: header.pop("best_step")), "no valid best_step"),
    "wrong type": (FILE, lambda path: replace_header(path, lambda header: header.update(step="17")), "no valid step"),
    "list": (FILE, lambda path: replace_header(path, lambda header: header.update(position=[1])), "valid position"),
    "no header": (FILE, lambda path: (write_tensors(path, load_file(path), {}), sign(path.parent)), "no valid"),
    "other step": (FILE, lambda path: replace_header(path, lambda header: header.update(step=16)), "is of step 16"),
    "another file": (
        FILE,
        lambda path: (write_tensors(path, {"a": torch.zeros(2)}, read_header(path)), sign(path.parent)),
        "has no tensor model.",
    ),
}
"""Name -> damaged file, damage, and words of the warning."""


@pytest.mark.parametrize("name", DAMAGES)
def test_older_state_is_used(
    run: Path, expected: dict[str, bytes], resume: Train, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    file, damage, words = DAMAGES[name]
    newest, older = StateFolder(run).states()
    damage(newest / file)
    assert resume() == expected
    err = capsys.readouterr().err
    (warning,) = [line for line in err.splitlines() if line.startswith("train: warning: ")]
    assert warning.startswith(f"train: warning: {newest / file}: ")
    assert words in warning
    assert warning.endswith("; the state before it is used")
    assert "train: resuming from step 15 of 40" in err
    assert not newest.exists() and not older.exists()


@pytest.mark.parametrize("name", DAMAGES)
def test_without_an_undamaged_state_the_folder_is_named(run: Path, resume: Train, name: str) -> None:
    file, damage, words = DAMAGES[name]
    for state in StateFolder(run).states():
        damage(state / file)
    with pytest.raises(DataError) as error:
        resume()
    assert words in str(error.value)
    assert str(error.value).endswith(f"; delete {run} to start the training again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [flip, cut_and_extend, Path.unlink, lambda path: os.truncate(path, 0)])
@pytest.mark.parametrize("name", ["train.tsv", "validation.tsv"])
def test_damaged_copy_of_a_log_is_replaced(
    run: Path,
    expected: dict[str, bytes],
    resume: Train,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
) -> None:
    damage(run / name)
    assert resume() == expected
    err = capsys.readouterr().err
    assert f"train: warning: {run / name}: differs from the log in the saved state, which replaces it\n" in err
    assert "train: resuming from step 17 of 40" in err


def test_lines_after_the_state_are_cut(
    run: Path, expected: dict[str, bytes], resume: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / "train.tsv").open("a") as file:
        file.write("a line after the last state\n")
    assert resume() == expected
    assert "warning" not in capsys.readouterr().err


def test_damage_before_publishing(
    run: Path, expected: dict[str, bytes], resume: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The result of the finished training is damaged on the disk before it is copied."""

    def damaged(folder: StateFolder, out: Path) -> None:
        flip(folder.states()[0] / checkpoint.FILE)
        real(folder, out)

    real = StateFolder.publish
    monkeypatch.setattr(StateFolder, "publish", damaged)
    with pytest.raises(DataError, match="corrupt, .*; run the same command again, it resumes from an undamaged state"):
        resume()
    monkeypatch.undo()
    monkeypatch.setenv("TRM_STATE_DIR", str(run.parent))
    assert resume() == expected


def test_earlier_layout_is_ignored(expected: dict[str, bytes], resume: Train) -> None:
    """The content key covers this code, so that such a folder is not met; if it is, the training starts again."""
    (states_folder() / KEY).mkdir(parents=True)
    (states_folder() / KEY / FILE).write_bytes(b"state of an earlier version")
    assert resume() == expected


@pytest.mark.slow
def test_benchmark_of_damages(tmp_path: Path) -> None:
    total = crash.measure(tmp_path, 12, seed=0)["total"]
    assert total["damages"] == total["detected"] == 12
    assert total["wrong_bytes_published"] == total["refused"] == total["lost"] == 0
