import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from trm.data.numba_utils import random_below, random_state, shuffle

DRAW = "from trm.datasets.sudoku.augmentation import *\n"
DRAW += "print(draw_transforms(np.random.default_rng(0), 9, 3).digits.tolist())"


def test_random_below_is_uniform() -> None:
    state = random_state(1, 2)
    counts = np.bincount([random_below(state, 7) for _ in range(7000)], minlength=7)
    assert len(counts) == 7
    assert (abs(counts - 1000) < 150).all()  # five standard deviations
    assert random_state(1, 2) != random_state(2, 1)
    values = np.arange(50)
    shuffle(values, state)
    assert sorted(values) == list(range(50))


@pytest.mark.slow
def test_machine_code_is_recompiled_after_change(tmp_path: Path) -> None:
    """Numba does not recompile when an imported compiled function changes; the cache path depends on its source."""
    shutil.copytree(ROOT / "trm", tmp_path / "trm", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
    environment["TRM_CACHE_DIR"] = str(tmp_path / "cache")

    def draw_digits() -> str:
        command = [sys.executable, "-c", DRAW]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    first = draw_digits()
    assert draw_digits() == first
    file = tmp_path / "trm/data/numba_utils.py"
    file.write_text(file.read_text().replace("0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17"))
    assert draw_digits() != first
