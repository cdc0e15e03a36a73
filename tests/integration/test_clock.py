"""An experiment on a machine whose clock is stepped: durations and limits do not depend on it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.c_libraries import shared_library
from tests.conftest import ROOT
from tests.params import TINY, params_text
from trm.stages.records import REQUIRED_STAGES
from trm.storage.artifacts import timing_file

pytestmark = pytest.mark.slow
STEPPED = "import time; times = [time.time() for _ in range(40)]; print(max(times) - min(times))"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs whose clock is stepped."""
    library = shared_library(ROOT / "tests/clock.c", tmp_path_factory.mktemp("clock"))
    return os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}


def test_the_clock_is_stepped(environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", STEPPED], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(2 * 86400, abs=10)


def test_experiment_with_a_stepped_clock(environment: dict[str, str], finished: Path, tmp_path: Path) -> None:
    """The outputs have the bytes of an experiment with a right clock, and no duration is negative or a day long."""
    (tmp_path / "params.yaml").write_text(params_text(TINY))
    started = time.monotonic()
    for stage in REQUIRED_STAGES:
        limit = ["--set", "train.max_seconds=1000"] if stage.name == "train" else []
        done = subprocess.run(
            [sys.executable, "-m", "trm", stage.name, *limit],
            cwd=tmp_path,
            env=environment | {"TRM_STATE_DIR": str(tmp_path / "states")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not re.search(r"-\d+:\d\d", done.stderr), done.stderr
        out = tmp_path / "outputs" / stage.output
        timing = json.loads(timing_file(out).read_text())
        assert 0 <= timing["seconds"] <= time.monotonic() - started
        assert timing.get("train_seconds", 0) >= 0
        assert timing.get("steps_per_second", 1) > 0
        for path in (finished / "outputs" / stage.output).rglob("*"):
            if path.is_file() and stage.name != "report":  # the page contains the durations
                copy = out / path.relative_to(finished / "outputs" / stage.output)
                assert copy.read_bytes() == path.read_bytes(), copy
