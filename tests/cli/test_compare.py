"""`trm compare`: two evaluations on this machine, whose predictions are chosen by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.helpers import Run, check_error
from tests.manifests import rewrite_manifest
from tests.seaweed import artifact
from trm.evaluation.evaluate import SCHEMA


def outputs(
    folder: Path,
    solved: Sequence[bool],
    validation: Sequence[bool] | None = None,
    raw: str = "a",
    lr: float = 0.001,
    digit: int = 1,
) -> Path:
    """The outputs of an experiment: evaluation, model and dataset. digit: the content of every solution."""

    def predictions(exact: Sequence[bool]) -> bytes:
        rows = [
            {
                "task": str(task),
                "pair": 0,
                "augmentation": 0,
                "answer": bytes([digit]),
                "exact": right,
                "correct": right,
            }
            for task, right in enumerate(exact)
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
        return sink.getvalue().to_pybytes()

    common = {"params": {"data": {"name": "sudoku"}}, "facts": {}}
    dataset_key, model_key = f"dataset of {raw}", f"model {lr}"
    artifact(
        folder / "dataset",
        {"meta.json": b"{}"},
        **common | {"stage": "augment", "key": dataset_key, "inputs": {"raw": raw}},
    )
    model = {"stage": "train", "key": model_key, "inputs": {"dataset": dataset_key}, "params": {"train": {"lr": lr}}}
    artifact(folder / "model", {"train.tsv": b""}, **common | model)
    metrics = {"exact_accuracy": sum(solved) / len(solved), "puzzles": len(solved), "interval_95": {}}
    files = {"metrics.json": json.dumps(metrics).encode(), "predictions.parquet": predictions(solved)}
    if validation is not None:
        files["validation.parquet"] = predictions(validation)
    inputs = {"dataset": dataset_key, "model": model_key}
    artifact(folder / "evaluation", files, **common | {"stage": "evaluate", "key": "e", "inputs": inputs})
    return folder


@pytest.mark.parametrize(
    ("first", "second", "code", "verdict"),
    [
        ([True] * 12, [False] * 9 + [True] * 3, 0, "the first model is better"),
        ([False] * 9 + [True] * 3, [True] * 12, 4, "the first model is worse"),
        ([True] * 3 + [False] * 9, [True] * 12, 4, "the first model is worse"),
        ([True] * 12, [False] * 2 + [True] * 10, 3, "no significant difference"),
    ],
)
def test_verdict_and_exit_code(
    run: Run, tmp_path: Path, first: list[bool], second: list[bool], code: int, verdict: str
) -> None:
    one, other = outputs(tmp_path / "one", first), outputs(tmp_path / "other", second, lr=0.5)
    status, out, err = run("compare", one, other)
    assert (status, err) == (code, "")
    assert out.splitlines()[-1] == verdict
    shown = " ".join(out.split())
    assert f"exact_accuracy {sum(first) / 12:.4f} {sum(second) / 12:.4f}" in shown
    assert "train.lr 0.001 -> 0.5" in shown
    assert "raw" not in shown


def test_statistics_by_hand(run: Run, tmp_path: Path) -> None:
    """9 of 12 puzzles are solved by one model only: p = 2 / 2^9; 9 / 14 +- 1.96 * sqrt(10 - 81 / 14) / 14."""
    one = outputs(tmp_path / "one", [True] * 12)
    other = outputs(tmp_path / "other", [False] * 9 + [True] * 3)
    _, out, _ = run("compare", one, other)
    shown = " ".join(out.split())
    assert "test puzzles, solved exactly: 100.0% and 25.0% difference: +75.0 points" in shown
    assert "points (95 % interval +35.5 to +93.0); p = 0.0039 (McNemar's exact test)" in shown
    assert "of 12: 9 solved by the first only, 0 by the second only" in shown


def test_validation_puzzles_decide(run: Run, tmp_path: Path) -> None:
    one = outputs(tmp_path / "one", [False] * 12, validation=[True] * 12)
    other = outputs(tmp_path / "other", [True] * 12, validation=[False] * 12)
    status, out, _ = run("compare", one, other)
    assert status == 0
    assert "validation puzzles, solved exactly: 100.0% and 0.0%" in out


@pytest.mark.parametrize("part", ["", "evaluation", "model"])
def test_folders_that_name_an_evaluation(run: Run, tmp_path: Path, part: str) -> None:
    one, other = outputs(tmp_path / "one", [True] * 3), outputs(tmp_path / "other", [True] * 3)
    assert run("compare", one / part, other / "evaluation")[0] == 3


def test_folders_without_an_evaluation(run: Run, tmp_path: Path) -> None:
    one = outputs(tmp_path / "one", [True])
    check_error(run("compare", one, tmp_path / "nowhere"), f"{tmp_path}/nowhere: no evaluation there; give the output")
    check_error(run("compare", one / "dataset", one), f"{one}/dataset: no evaluation there")
    rewrite_manifest(one / "model", key="another model")
    check_error(run("compare", one / "model", one), f"{one}/model: no evaluation there")


def test_different_puzzles_are_refused(run: Run, tmp_path: Path) -> None:
    one = outputs(tmp_path / "one", [True] * 3)
    check_error(run("compare", one, outputs(tmp_path / "raw", [True] * 3, raw="b")), "from different raw data")
    other = outputs(tmp_path / "digit", [True] * 3, digit=2)
    check_error(run("compare", one, other), "different puzzles have the same names; compare on the same data")


def test_no_puzzles_in_common(run: Run, tmp_path: Path) -> None:
    one, other = outputs(tmp_path / "one", [True] * 3), outputs(tmp_path / "other", [True] * 3)
    table = pq.read_table(other / "evaluation/predictions.parquet")
    renamed = table.set_column(0, "task", pa.array(["x", "y", "z"]))
    files = {"metrics.json": b"{}"}
    pq.write_table(renamed, tmp_path / "renamed.parquet")
    files["predictions.parquet"] = (tmp_path / "renamed.parquet").read_bytes()
    (other / "evaluation/manifest.json").unlink()
    inputs = {"dataset": "dataset of a", "model": "model 0.001"}
    artifact(other / "evaluation", files, stage="evaluate", key="e", inputs=inputs, params={}, facts={})
    check_error(run("compare", one, other), "no puzzles with known solutions in common")


def test_damaged_evaluation(run: Run, tmp_path: Path) -> None:
    one = outputs(tmp_path / "one", [True])
    (one / "evaluation/predictions.parquet").write_bytes(b"damaged")
    check_error(run("compare", one, one), "predictions.parquet: corrupt")
