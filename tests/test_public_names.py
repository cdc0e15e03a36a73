"""The public names of the package `trm`."""

from importlib.metadata import version
from pathlib import Path

import trm
from tests.conftest import ROOT
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams


def test_names() -> None:
    assert dir(trm) == sorted(trm.__all__)
    assert trm.__version__ == version("trm")
    for name in trm.__all__:
        assert getattr(trm, name)
    documented = (ROOT / "docs/python-api.md").read_text()
    assert [name for name in trm.__all__ if name not in ("__version__", "Answer") and name not in documented] == []
    assert (Path(trm.__file__).parent / "py.typed").is_file(), "type checkers use the annotations"


def test_printed_model(model_params: ModelParams, meta: DatasetMeta) -> None:
    printed = str(trm.build_model(model_params, meta))
    assert printed.splitlines()[1:4] == [
        "  trm, sudoku: 0 puzzle tokens + 4 x 4 grid tokens, width 16",
        "  token_embedding: 6 x 16, puzzle_table: 0 x 0",
        "  6 passes per supervision step, at most 4 steps",
    ]
    assert "(gate_up): Linear(16 -> 512)" in printed
    assert "(q_head): Linear(16 -> 2, bias)" in printed
    assert "MLP over positions" in printed
    attention = model_params.model_copy(update={"mlp_t": False, "pos_encodings": "learned"})
    printed = str(trm.build_model(attention, meta))
    assert "position_embedding: 16 x 16" in printed
    assert "2 heads" in printed
    assert "attention over positions" in printed
