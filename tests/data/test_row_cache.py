import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trm.data import parquet
from trm.data.batches import collate, test_batches, training_batches
from trm.data.parquet import Split, read_rows, read_split, write_split
from trm.data.row_cache import MAX_UNUSED_DAYS, CachedRows, cached_rows
from trm.utils.errors import UserError

RNG = np.random.default_rng(0)
INPUTS, LABELS = RNG.integers(0, 9, (2, 500, 12), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/rows"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The decoded file; its SHA-256 is the name of the cache file."""
    path = tmp_path / "source"
    path.write_text("one")
    return path


def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, 500, 170):
        yield INPUTS[start : start + 170], LABELS[start : start + 170]


def not_called() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    raise AssertionError("cached rows are decoded again")
    yield INPUTS, LABELS


def test_rows_equal_array(source: Path, cache: Path) -> None:
    inputs, labels = cached_rows(source, 500, 12, blocks)
    assert len(inputs) == 500
    assert not cache.exists(), "decoded before the first row is read"
    for rows in (np.array([3, 499, 0, 3]), np.array([], dtype=np.int64), np.array([-1, -500]), slice(4, 300, 7), 17):
        assert np.array_equal(inputs[rows], INPUTS[rows])
        assert np.array_equal(labels[rows], LABELS[rows])
    with pytest.raises(IndexError, match="rows must be below 500. Got 3..500"):
        inputs[np.array([3, 500])]
    again, _ = cached_rows(source, 500, 12, not_called)
    assert np.array_equal(again[:], INPUTS)
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".rows"]


def test_truncated_file_is_decoded_again(source: Path, cache: Path) -> None:
    cached_rows(source, 500, 12, blocks)[0][0]
    (rows,) = cache.glob("*.rows")
    with rows.open("r+b") as file:
        file.truncate(1000)
    assert np.array_equal(cached_rows(source, 500, 12, blocks)[1][:], LABELS)


def test_failure_leaves_no_file(source: Path, cache: Path) -> None:
    def failing_blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield INPUTS, LABELS
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cached_rows(source, 500, 12, failing_blocks)[0][0]
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_unused_files_are_deleted(source: Path, cache: Path) -> None:
    cached_rows(source, 500, 12, blocks)[0][0]
    (old,) = cache.glob("*.rows")
    source.write_text("recent")
    cached_rows(source, 500, 12, blocks)[0][0]
    past = time.time() - (MAX_UNUSED_DAYS + 1) * 86400
    os.utime(old, (past, past))
    source.write_text("new")
    cached_rows(source, 500, 12, blocks)[0][0]
    assert len(list(cache.glob("*.rows"))) == 2
    assert not old.exists()


def test_read_rows_does_not_decode_split(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = np.arange(500, dtype=np.int32)
    split = Split(INPUTS, LABELS, index, index, index, index * 0, ("a",), index)
    monkeypatch.setattr(parquet, "row_group_size", lambda _: 64)
    write_split(tmp_path / "train", [split], 12, {})
    rows = [499, 0, 63, 64, 130]
    inputs, labels = read_rows(tmp_path / "train", rows)
    assert np.array_equal(inputs, INPUTS[rows])
    assert np.array_equal(labels, LABELS[rows])
    assert not cache.exists()


def test_large_split_gives_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = np.arange(500, dtype=np.int32)
    codes = index * 0
    split = Split(INPUTS, LABELS, index // 10, index // 2, index // 2 + 1, codes, ("a",), index)
    write_split(tmp_path / "train", [split], 12, {})
    small = read_split(tmp_path / "train")
    monkeypatch.setattr(parquet, "MAX_BYTES_IN_MEMORY", 1000)
    large = read_split(tmp_path / "train")
    assert isinstance(small.inputs, np.ndarray)
    assert isinstance(large.inputs, CachedRows)
    assert large.counts() == small.counts()
    for (rows, *_), (again, *_) in zip(
        training_batches(small, 3, 16, 0), training_batches(large, 3, 16, 0), strict=True
    ):
        assert np.array_equal(rows, again)
        one, other = collate(small, rows), collate(large, rows)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    for (one, count), (other, _) in zip(test_batches(small, 64), test_batches(large, 64), strict=True):
        assert count in (64, 500 % 64)
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_invalid_cache_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/dev/null/nowhere")):
        monkeypatch.setenv("TRM_CACHE_DIR", str(folder))
        with pytest.raises(UserError, match=r"cannot be written \(.*\); free space, or set TRM_CACHE_DIR"):
            cached_rows(source, 500, 12, blocks)[0][0]
