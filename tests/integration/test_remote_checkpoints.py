"""Checkpoints in S3: training resumes on another machine, and continues while S3 is unavailable."""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.s3_server import SeaweedFS
from tests.integration.test_distributed import published
from tests.integration.torchrun_experiment import Experiment
from tests.preload import python

__all__ = ["published"]
pytestmark = pytest.mark.slow
STATES = "s3://trm/states"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path / "s3")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, storage: SeaweedFS, tmp_path: Path) -> Path:
    """The local folder of a machine, which a test may delete; states are copied to S3."""
    for name, value in (storage.environment() | {"TRM_STATE_DIR": STATES}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "machine"))
    return tmp_path / "machine"


def remote_checkpoints(storage: SeaweedFS) -> dict[int, dict]:
    """Step -> manifest of the complete checkpoints."""
    client, found = storage.client(), {}
    for item in client.list_objects_v2(Bucket="trm", Prefix="states/").get("Contents", []):
        if item["Key"].endswith("/manifest.json"):
            # A newer checkpoint may replace it after the listing.
            with contextlib.suppress(client.exceptions.NoSuchKey):
                body = client.get_object(Bucket="trm", Key=item["Key"])["Body"]
                found[int(item["Key"].split("/")[-2])] = json.loads(body.read())
    return found


def test_resume_on_another_machine(published: Path, tmp_path: Path, machine: Path, storage: SeaweedFS) -> None:
    uninterrupted, moved = Experiment(tmp_path / "uninterrupted", published), Experiment(tmp_path / "moved", published)
    uninterrupted.states = moved.states = STATES
    uninterrupted.train(2)
    final = remote_checkpoints(storage)
    assert max(final) == 50
    assert len(final) <= 2  # older checkpoints are deleted
    names = {"state.safetensors", "puzzle_table.safetensors", "checkpoint.safetensors", "train.tsv", "validation.tsv"}
    assert set(final[50]["files"]) == names
    for step in final:
        storage.client().delete_object(Bucket="trm", Key=f"states/{final[50]['key']}/{step:012}/manifest.json")
    shutil.rmtree(machine)

    process = moved.start(2, "train", "--dataset", str(published), "--model", "model", program=python())
    while not list(machine.glob("states/*/train.tsv")) or moved.lines(machine) < 20:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert 20 <= max(remote_checkpoints(storage)) < 50  # saved on SIGTERM
    shutil.rmtree(machine)
    out = moved.train(2)
    assert "train: 50 done" in out
    for name in ("checkpoint.safetensors", "train.tsv", "validation.tsv"):
        assert (moved.folder / "model" / name).read_bytes() == (uninterrupted.folder / "model" / name).read_bytes()


def test_training_continues_while_s3_is_unavailable(
    published: Path, tmp_path: Path, machine: Path, storage: SeaweedFS
) -> None:
    experiment = Experiment(tmp_path / "run", published, {"train.epochs": 240, "train.eval_interval": 240})
    experiment.states = STATES
    process = experiment.start(1, "train", "--dataset", str(published), "--model", "model", program=python())
    while not remote_checkpoints(storage):
        assert process.poll() is None
        time.sleep(0.05)
    storage.kill()
    seen = experiment.lines(machine)
    while experiment.lines(machine) < seen + 200:
        assert process.poll() is None  # training continues
        time.sleep(0.01)
    # Two states, one being written, one being deleted and one pending copy, however many states were saved.
    assert len(list(machine.glob("states/*/**/state.safetensors"))) <= 5
    storage.start()
    reached = experiment.lines(machine)
    while max(remote_checkpoints(storage), default=0) < reached:
        assert process.poll() is None
        time.sleep(0.05)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert max(remote_checkpoints(storage)) == 600


def test_training_completes_without_s3(published: Path, tmp_path: Path, machine: Path, storage: SeaweedFS) -> None:
    experiment = Experiment(tmp_path / "run", published, {"train.epochs": 100, "train.eval_interval": 100})
    experiment.states = STATES
    process = experiment.start(1, "train", "--dataset", str(published), "--model", "model", program=python())
    while not remote_checkpoints(storage):
        assert process.poll() is None
        time.sleep(0.05)
    storage.kill()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert "the last state is not uploaded; it is in" in out
    assert (experiment.folder / "model/checkpoint.safetensors").exists()


def test_invalid_credentials_fail_immediately(
    published: Path, tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    experiment = Experiment(tmp_path / "run", published)
    experiment.states = STATES
    out = experiment.train(1, code=2)
    assert "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY" in out.splitlines()[-1]
