"""A server that follows the champion of a dataset in S3."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.models.act import build_model
from trm.reporting.terminal.demo import MODEL
from trm.serving.champion import Follower, champion_model, is_champion
from trm.serving.service import ServedModel, ServerLimits
from trm.storage.s3_client import Store
from trm.training.checkpoint import save_checkpoint
from trm.utils.errors import DataError

KEYS = ["1" * 64, "2" * 64]


def promote(root: str, key: object) -> None:
    Store(f"{root}/champions/six").put("champion.json", json.dumps({"keys": {"train": key}}).encode())


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_locations() -> None:
    assert is_champion("s3://trm/artifacts/champions/sudoku-1a")
    assert is_champion("s3://trm/champions/six/")
    for other in ("s3://champions/six", "s3://trm/artifacts/train/" + KEYS[0], "outputs/champions/six", "demo"):
        assert not is_champion(other)


@pytest.mark.slow
def test_champion_in_s3(root: str) -> None:
    folder = f"{root}/champions/six"
    with pytest.raises(DataError, match="no champion; promote a result"):
        champion_model(folder)
    promote(root, KEYS[0])
    assert champion_model(folder) == f"{root}/train/{KEYS[0]}"
    for damaged in (7, "../../" + KEYS[0], None):
        promote(root, damaged)
        with pytest.raises(DataError, match="damaged"):
            champion_model(folder)


@pytest.mark.slow
def test_a_new_champion_is_loaded(root: str, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file and a model that cannot be loaded are logged, and do not end the thread."""
    promote(root, KEYS[0])
    loaded = list[str]()

    def load(uri: str) -> None:
        loaded.append(uri)
        if loaded.count(uri) == 1:
            raise DataError(f"{uri}: not there yet")

    with caplog.at_level(logging.WARNING):
        follower = Follower(f"{root}/champions/six", f"{root}/train/{KEYS[0]}", load, 0.01)
        promote(root, "damaged")
        wait_for(lambda: any("damaged" in record.getMessage() for record in caplog.records))
        promote(root, KEYS[1])
        wait_for(lambda: len(loaded) == 2)
        assert loaded == [f"{root}/train/{KEYS[1]}"] * 2
        promote(root, KEYS[0])
        wait_for(lambda: len(loaded) == 3)
        follower.stop()
    assert any(record.getMessage().endswith("not there yet") for record in caplog.records)
    assert len(loaded) <= 4


def test_another_model_answers(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    """From the next request on; a model of other puzzles is refused."""
    served = ServedModel("six", MODEL, DEFAULT_INFERENCE, ServerLimits(max_wait=0), "cpu")
    questions = served.read([".6..2........5.......3.1...43.42...6"])

    def answer() -> tuple[list[list[int]], float]:
        (future,) = served.submit(questions, DEFAULT_INFERENCE, 0)
        return future.result(60).grid.tolist(), future.result(60).halt_probability

    before = answer()
    other = build_model(model_params, served.meta)
    save_checkpoint(tmp_path / "checkpoint.safetensors", other, other, {})
    served.load(tmp_path / "checkpoint.safetensors")
    assert answer()[1] == pytest.approx(0.0067, abs=1e-4)  # an untrained network
    wrong = build_model(model_params, meta)
    save_checkpoint(tmp_path / "wrong.safetensors", wrong, wrong, {})
    with pytest.raises(DataError, match="has other puzzles than the model six"):
        served.load(tmp_path / "wrong.safetensors")
    served.load(MODEL)
    assert answer() == before
    served.close()
