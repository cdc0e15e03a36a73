"""Trainings that make no progress."""

import subprocess
import sys
from pathlib import Path

import pytest

from trm.config.model import ModelParams
from trm.config.training import TrainParams

HANGS = """
import sys, time
from pathlib import Path
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.training import trainer

real = trainer.train_step

def wait_for_a_lost_process():
    time.sleep(60)

def train_step(state, *args):
    if state.step == 3:
        wait_for_a_lost_process()
    return real(state, *args)

trainer.train_step = train_step
model, train = ModelParams.model_validate_json(sys.argv[1]), TrainParams.model_validate_json(sys.argv[2])
trainer.train(model, train, Path(sys.argv[3]), Path(sys.argv[4]), "key")
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5.0, None])
def test_a_step_that_hangs(
    limit: float | None, dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    """The limit ends it, and names where it hangs. Without a limit it goes on."""
    train = train_params.model_copy(update={"max_stall_seconds": limit})
    source = HANGS if limit else HANGS.replace("time.sleep(60)", "raise SystemExit(7)")
    arguments = [model_params.model_dump_json(), train.model_dump_json(), str(dataset), str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == (1 if limit else 7), ended.stderr
    assert ("in wait_for_a_lost_process" in ended.stderr) == (limit is not None)
    assert ("Timeout (0:00:05)!" in ended.stderr) == (limit is not None)
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_each_step_starts_the_time_again() -> None:
    source = (
        "import time; from trm.training.watchdog import watchdog; end = time.monotonic() + 4\n"
        "with watchdog(3) as is_alive:\n"
        "    while time.monotonic() < end: is_alive(); time.sleep(0.01)\n"
        "time.sleep(3.5)\n"  # after the training there is no limit
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)
