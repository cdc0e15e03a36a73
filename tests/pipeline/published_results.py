"""Small results in an S3 server: the artifacts of an experiment, with chosen predictions."""

import io
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs import RunRecord, read_runs, write_runs
from tests.seaweed import artifact
from trm.evaluation.evaluate import SCHEMA
from trm.stages.content_keys import digest_of
from trm.storage import s3

VERSIONS = {"numpy": "2", "pyarrow": "26", "torch": "2.13.0"}


def predictions_file(solved: Sequence[bool | None], pairs: int = 1) -> bytes:
    """Return a predictions file: `pairs` examples per task, each original and in one augmentation that is solved."""
    rows = [
        {
            "task": str(n // pairs),
            "pair": n % pairs,
            "augmentation": augmentation,
            "exact": True if augmentation else exact,
        }
        for n, exact in enumerate(solved)
        for augmentation in (0, 1)
    ]
    schema = pa.schema([SCHEMA.field(name) for name in ("task", "pair", "augmentation", "exact")])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


def publish_result(
    root: str,
    folder: Path,
    validation: Sequence[bool | None] | None,
    test: Sequence[bool | None] = (True, False),
    raw: bytes = b"the puzzles",
    lr: float = 0.001,
    metrics: str | None = None,
    pairs: int = 1,
) -> str:
    """Publish a result in `root` and return its content key."""
    folder /= secrets.token_hex(4)

    def publish(stage: str, files: Mapping[str, bytes], params: Mapping[str, Any], **inputs: str) -> str:
        request = {
            "stage": stage,
            "params": params,
            "inputs": inputs,
            "modules": {"trm/a.py": "1"},
            "versions": VERSIONS,
        }
        key = digest_of({**request, "bytes": {name: data.hex() for name, data in files.items()}})
        s3.publish(
            artifact(folder / stage, dict(files), **{**request, "key": key, "facts": {}}), f"{root}/{stage}/{key}"
        )
        return key

    data = {"name": "sudoku", "size": 4}
    fetched = publish("fetch", {"test.csv": raw}, {"data": data})
    made = publish("augment", {"meta.json": b"{}"}, {"data": data, "augment": {"seed": 0}}, raw=fetched)
    curves = {
        "train.tsv": b"step\tloss\texact_accuracy\n1\t2.5\t\n2\t1.5\t0.5\n3\t\t0.5\n",
        "validation.tsv": b"step\texact_accuracy\n2\t0.5\n",
    }
    train = {"model": {"hidden_size": 16}, "train": {"lr": lr, "epochs": 2}}
    trained = publish("train", {**curves, "checkpoint.safetensors": b"weights"}, train, dataset=made)
    share = sum(map(bool, test)) / len(test)
    metrics_text = metrics or json.dumps(
        {"exact_accuracy": share, "puzzles": len(test), "interval_95": {"exact_accuracy": [0, 1]}}
    )
    files = {"predictions.parquet": predictions_file(test, pairs), "metrics.json": metrics_text.encode()}
    if validation is not None:
        files["validation.parquet"] = predictions_file(validation, pairs)
    return publish("evaluate", files, {"evaluate": {"votes": 2}}, dataset=made, model=trained)


def record(key: str, **facts: Any) -> None:
    """Add a row to runs.tsv, as if the result had been collected."""
    values = dict.fromkeys(RunRecord.__dataclass_fields__, "") | {
        "seconds": 1.0,
        "steps": None,
        "work": 1,
        "gpus": 0,
    }
    fields = {
        **values,
        "stage": "evaluate",
        "key": key,
        "commit": "c" * 40,
        "run": "run-1",
        "image": "i@sha256:1",
        **facts,
    }
    write_runs([*read_runs(), RunRecord(**fields)])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
