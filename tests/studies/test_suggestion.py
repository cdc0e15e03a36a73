"""Suggested settings: what they contain, and files for which a warning or an error is due."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.puzzle_generators import PUZZLES, write_puzzles
from trm.studies.suggestion import Suggestion, suggest
from trm.utils.errors import DataError, UserError


def suggested(file: Path, minutes: float = 10, seconds: float = 0.1) -> tuple[dict[str, Any], Suggestion]:
    """The settings and the suggestion on a machine that needs about `seconds` for a step, at the mean depth."""
    suggestion = suggest(file, minutes, lambda model, meta, train: seconds)
    return YAML(typ="safe", pure=True).load(suggestion.text), suggestion


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    write_puzzles(tmp_path / "latin.csv", "latin", 400)
    return tmp_path / "latin.csv"


def test_settings(latin: Path) -> None:
    params, suggestion = suggested(latin)
    assert params["data"] == {
        "name": "custom",
        "source": {"type": "path", "file": str(latin), "sha256": None},
        "alphabet": [".", "1", "2", "3", "4", "5"],
        "height": 5,
        "width": 5,
        "test_groups": 40,
        "symmetries": ["dihedral", "permute_symbols"],
        "fixed_symbols": ["."],
        "allow_leakage": False,
        "seed": 0,
    }
    assert params["augment"] == {"num_aug": 100, "validation_groups": 40, "seed": 0}
    assert (params["model"]["mlp_t"], params["model"]["pos_encodings"]) == (True, "none")
    # 80 % of 600 s are 4,800 steps at full depth. A step has 10 passes, 5 of them with gradients (three times as much
    # work): 20 units. With 1 round of 2 + 1 passes it has 9, with 2 rounds of 3 passes 12; the mean is
    # 0.3 * 9 + 0.3 * 12 + 0.4 * 20 = 14.3. So there are 6,713 steps of 32 puzzles; 320 groups are for training.
    assert params["train"]["epochs"] == 670
    assert params["train"]["ema_rate"] == pytest.approx(1 - 20 / 6700, abs=1e-3)
    assert not suggestion.warnings
    assert re.match("6,700 steps of 32 puzzles, about (7:5|8:0)[0-9]", suggestion.summary[-1])
    assert "# Symmetry: dihedral is used: 400 puzzles look the same after left-right reflection" in suggestion.text
    for key in ("alphabet", "height", "test_groups", "num_aug", "mlp_t", "hidden_size", "epochs", "lr", "ema_rate"):
        assert re.search(rf"(?m)^ +{key}: .* # \S", suggestion.text), key


def test_the_time_determines_the_steps(latin: Path) -> None:
    steps = [suggested(latin, minutes, seconds)[0]["train"]["epochs"] for minutes, seconds in ((5, 0.1), (10, 0.2))]
    assert steps == [340, 340]
    assert suggested(latin, 10000)[1].summary[-1].startswith("20,000 steps")


def test_outputs_of_another_shape(tmp_path: Path) -> None:
    """The output is the first row of the input."""
    rng, file = np.random.default_rng(0), tmp_path / "rows.jsonl"
    grids = ["".join(row) for row in rng.choice(list("ab"), (400, 20))]
    rows = [[text[start : start + 5] for start in range(0, 20, 5)] for text in dict.fromkeys(grids)]
    file.write_text("".join(f'{{"input": {row}, "output": {row[:1]}}}\n'.replace("'", '"') for row in rows))
    params, suggestion = suggested(file)
    assert params["model"]["mlp_t"] is False
    assert params["model"]["pos_encodings"] == "rope_2d"
    assert params["data"]["symmetries"] == ["permute_symbols"]
    assert "end tokens delimit the grids" in suggestion.text


def test_ten_rows(tmp_path: Path) -> None:
    write_puzzles(tmp_path / "few.csv", "mirror", 10)
    params, suggestion = suggested(tmp_path / "few.csv")
    assert (params["data"]["test_groups"], params["augment"]["validation_groups"]) == (1, 1)
    assert params["data"]["symmetries"] == []
    assert params["evaluate"]["num_votes"] == 1
    assert [warning.partition(":")[0] for warning in suggestion.warnings] == ["10 groups are few"]
    assert "only 10 puzzles have one shape; at least 100 are compared" in suggestion.text


def test_contradiction(tmp_path: Path) -> None:
    write_puzzles(tmp_path / "mine.csv", "mirror", 300)
    lines = (tmp_path / "mine.csv").read_text().splitlines()
    question = lines[4].split(",")[0]
    (tmp_path / "mine.csv").write_text("\n".join([*lines, f"{question},{question}"]) + "\n")
    params, suggestion = suggested(tmp_path / "mine.csv")
    assert suggestion.warnings == ["lines 5 and 302 have one input and two outputs: no model learns both"]
    assert f"# Warning:  {suggestion.warnings[0]}" in suggestion.text
    assert params["data"]["symmetries"] == []


def test_enormous_grids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    symbols = np.array(list("abcdefghijklmnopqrstuvwxyz0123"))
    rows = ["/".join("".join(row) for row in grid) for grid in symbols[rng.integers(0, 30, (120, 64, 64))]]
    (tmp_path / "big.csv").write_text("input,output\n" + "".join(f"{row},{row}\n" for row in rows))
    params, suggestion = suggested(tmp_path / "big.csv", seconds=30)
    assert (params["data"]["height"], len(params["data"]["alphabet"])) == (64, 30)
    assert (params["model"]["mlp_t"], params["train"]["global_batch_size"]) == (False, 4)
    assert any(
        re.match(r"only \d+ steps fit in 10 minutes, too few to learn: raise --minutes", warning)
        for warning in suggestion.warnings
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "12", r"a.txt: must end in .csv or .jsonl; convert it"),
        ("a.csv", "", r"a.csv: the file is empty"),
        ("a.csv", "name,age\nAnn,7\n", r"a.csv, line 1: column input is missing"),
        (
            "a.csv",
            "input,output\n1,2\n2,1\n",
            r"a.csv: .* need at least 3 groups. Got 2; add puzzles",
        ),
        ("a.csv", "input,output\n" + "1,2\n" * 50, r"data.test_groups: 5 groups cannot be held out because equivalent"),
        ("a.jsonl", "{]\n", r"a.jsonl, line 1: invalid JSON"),
    ],
)
def test_no_puzzles(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        suggested(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        suggested(tmp_path / "none.csv")


def test_prose(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = [chr(0x4E00 + number) for number in range(100)]
    lines = ["".join(rng.choice(letters, rng.integers(5, 40))) for _ in range(400)]
    (tmp_path / "prose.csv").write_text("input,output\n" + "".join(f"{line},{line[::-1]}\n" for line in lines))
    _, suggestion = suggested(tmp_path / "prose.csv")
    assert suggestion.warnings == ["100 different symbols: check that the columns contain grids"]


@pytest.mark.parametrize("name", PUZZLES)
def test_generators(tmp_path: Path, name: str) -> None:
    """Each generator writes a file for which there is a suggestion."""
    write_puzzles(tmp_path / "mine.csv", name, 120)
    params, _ = suggested(tmp_path / "mine.csv")
    assert params["train"]["epochs"] > 0
