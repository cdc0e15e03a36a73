"""Small results in a real S3: the four artifacts of an experiment, with answers as a test wants them."""

import io
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runs import Recorded, read_runs, write_runs
from tests.seaweed import artifact
from trm import s3
from trm.stages import digest_of

VERSIONS = {"numpy": "2", "pyarrow": "26", "torch": "2.13.0"}


def answers(solved: Sequence[bool | None], pairs: int = 1) -> bytes:
    """A predictions file: `pairs` examples a task, each asked as it is and in one shuffle that is always right."""
    rows = [
        {"task": str(n // pairs), "pair": n % pairs, "version": version, "exact": exact if version == 0 else True}
        for n, exact in enumerate(solved)
        for version in (0, 1)
    ]
    schema = pa.schema({"task": pa.string(), "pair": pa.int32(), "version": pa.int32(), "exact": pa.bool_()})
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
    """Publish a result below `root`; its content key."""
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

    data = {"kind": "sudoku", "size": 4}
    fetched = publish("fetch", {"test.csv": raw}, {"data": data})
    made = publish("augment", {"meta.json": b"{}"}, {"data": data, "augment": {"seed": 0}}, raw=fetched)
    curves = {
        "train.tsv": b"step\tloss\texact_accuracy\n1\t2.5\t\n2\t1.5\t0.5\n3\t\t0.5\n",
        "validation.tsv": b"step\texact_accuracy\n2\t0.5\n",
    }
    train = {"model": {"hidden_size": 16}, "train": {"lr": lr, "epochs": 2}}
    trained = publish("train", {**curves, "checkpoint.safetensors": b"weights"}, train, dataset=made)
    share = sum(map(bool, test)) / len(test)
    told = metrics or json.dumps(
        {"exact_accuracy": share, "puzzles": len(test), "interval_95": {"exact_accuracy": [0, 1]}}
    )
    files = {"predictions.parquet": answers(test, pairs), "metrics.json": told.encode()}
    if validation is not None:
        files["validation.parquet"] = answers(validation, pairs)
    return publish("evaluate", files, {"evaluate": {"votes": 2}}, dataset=made, model=trained)


def record(key: str, **facts: Any) -> None:
    """A line in runs.tsv, as if the result had been collected here."""
    values = dict.fromkeys(Recorded.__dataclass_fields__, "") | {
        "seconds": 1.0,
        "steps": None,
        "work": 1,
        "gpus": 0,
    }
    line = {
        **values,
        "stage": "evaluate",
        "key": key,
        "commit": "c" * 40,
        "run": "run-1",
        "image": "i@sha256:1",
        **facts,
    }
    write_runs([*read_runs(), Recorded(**line)])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which commands run."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
