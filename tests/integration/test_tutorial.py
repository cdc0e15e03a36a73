"""The tutorial is a notebook whose cells run in order."""

from functools import partial
from pathlib import Path
from typing import Any

import jupytext
import matplotlib as mpl
import pytest

import trm
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRM_STATE_DIR", str(tmp_path / "states"))
    mpl.use("Agg")
    shorter = {"train.epochs": 2, "evaluate.max_puzzles": 50, "report.test_time_compute.max_puzzles": 10}
    monkeypatch.setattr(trm, "load_recipe", partial(trm.load_recipe, changes=shorter))
    notebook: Any = jupytext.read(ROOT / "docs/tutorial.md")
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 6
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "test puzzles are solved exactly" in printed
    assert "step 4: halt probability" in printed
    assert (tmp_path / "tutorial/movement.png").stat().st_size > 5000
    assert (tmp_path / "tutorial/report/report.html").exists()
