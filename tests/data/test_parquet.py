import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trm.data import parquet
from trm.data.parquet import Split, read_counts, read_lineage, read_meta, read_split, write_meta, write_split
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.utils.errors import DataError


def example_split(count: int, first: int = 0) -> Split:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 6, (first + count, 16), dtype=np.uint8)[first:]
    index = np.arange(first, first + count, dtype=np.int32)
    codes = (index // 7 % 2).astype(np.int32)
    return Split(tokens, tokens + np.uint8(1), index // 10, index // 2, index * 0, codes, ("a", "é"), index * 3)


def test_round_trip_and_starts(tmp_path: Path) -> None:
    split = example_split(25)
    assert write_split(tmp_path / "train", [split], 16, {"key": "k"}) == {"groups": 3, "puzzles": 13, "examples": 25}
    loaded = read_split(tmp_path / "train")
    for name in ("inputs", "labels", "groups", "puzzles", "identifiers", "ratings", "sources"):
        assert np.array_equal(getattr(loaded, name), getattr(split, name)), name
    assert loaded.inputs[:].dtype == np.uint8
    assert loaded.groups.dtype == loaded.source_codes.dtype == np.int32
    assert loaded.puzzle_starts.tolist() == [*range(0, 25, 2), 25]
    assert loaded.group_starts.tolist() == [0, 5, 10, 13]
    assert loaded.counts() == {"groups": 3, "puzzles": 13, "examples": 25}
    assert read_lineage(tmp_path / "train") == {"key": "k"}


def test_bytes_are_independent_of_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "row_group_size", lambda _: 64)
    counts = write_split(tmp_path / "one", [example_split(300)], 16, {})
    parts = [example_split(3), example_split(97, 3), example_split(0, 100), example_split(200, 100)]
    assert write_split(tmp_path / "many", iter(parts), 16, {}) == counts
    one, many = ((tmp_path / name / parquet.EXAMPLES).read_bytes() for name in ("one", "many"))
    assert one == many
    file = pq.ParquetFile(tmp_path / "one" / parquet.EXAMPLES)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64] * 4 + [44]
    loaded = read_split(tmp_path / "one")
    assert np.array_equal(loaded.inputs[:], example_split(300).inputs[:])
    assert np.array_equal(loaded.sources, example_split(300).sources)


def test_columns_and_encoding(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [example_split(5)], 16, {})
    file = pq.ParquetFile(tmp_path / "train" / parquet.EXAMPLES)
    assert file.schema_arrow.field("inputs").type == pa.binary(16)
    column = file.metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert not column.is_stats_set
    assert "RLE_DICTIONARY" not in column.encodings


def test_damaged_files(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    with pytest.raises(DataError, match=r"examples.parquet: no such split; .* `trm augment`"):
        read_split(folder)
    write_split(folder, [example_split(500)], 16, {})
    file = folder / parquet.EXAMPLES
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no parquet at all"):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"examples.parquet: not a valid Parquet file .*; delete it and"):
            read_split(folder)
    # A flipped bit in the first page is detected by the checksum of the page.
    flipped = bytearray(content)
    flipped[200] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(DataError, match=r"not a valid Parquet file"):
        read_split(folder)


def test_other_schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "SCHEMA_VERSION", "0")
    write_split(tmp_path / "old", [example_split(5)], 16, {})
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"schema version must be 1. Got 0; run `trm augment` again"):
        read_split(tmp_path / "old")
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / parquet.EXAMPLES)
    with pytest.raises(DataError, match=r"Got none"):
        read_split(tmp_path / "other")
    table = pa.table({"a": [1]}).replace_schema_metadata({"trm.schema_version": "1"})
    pq.write_table(table, tmp_path / "other" / parquet.EXAMPLES)
    with pytest.raises(DataError, match=r"column inputs of type .* is missing"):
        read_split(tmp_path / "other")
    write_split(tmp_path / "empty", [], 16, {})
    with pytest.raises(DataError, match=r"contains no examples"):
        read_split(tmp_path / "empty")


def test_meta(tmp_path: Path) -> None:
    counts = {"train": {"groups": 1, "puzzles": 2, "examples": 3}}
    write_meta(tmp_path, sudoku_meta(6), counts)
    assert read_meta(tmp_path) == sudoku_meta(6)
    assert read_counts(tmp_path) == counts
    path = tmp_path / "meta.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"height": "six"}))
    with pytest.raises(DataError, match=r"meta.json: height is missing or invalid; "):
        read_meta(tmp_path)
    path.write_text(json.dumps(values | {"schema_version": "2"}))
    with pytest.raises(DataError, match=r"schema version 1"):
        read_meta(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"meta.json: invalid JSON"):
        read_meta(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"is not a dataset; .* `trm augment`"):
        read_meta(tmp_path)


def test_a_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "examples.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    with pytest.raises(DataError, match="is a Git LFS pointer, not a Parquet file; fetch its content .git lfs pull."):
        read_split(tmp_path)
