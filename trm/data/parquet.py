"""Data sets on disk: one folder a split, holding examples.parquet, and meta.json beside the splits.

`inputs` and `labels` are fixed_size_binary(L), one byte a token (a label of 0 is padding); `group` int32 numbers
what is never split (in a CSV of puzzles the row, from 0), `puzzle` int32 counts through the split, `identifier` int32
is the puzzle's embedding row, `source` a string that says where the puzzle is from, `rating` int32 how hard it is.
Schema version and lineage stand in the file's metadata. Where puzzles have identifiers of their own,
identifiers.parquet holds their names in order.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from trm.data.row_cache import Decoded, StoredRows, stored_rows
from trm.utils.errors import DataError
from trm.config.dataset_meta import DatasetMeta

SCHEMA_VERSION = "1"
EXAMPLES = "examples.parquet"
NAMES = "identifiers.parquet"
IN_MEMORY = 64 << 20
"""Bytes of inputs and labels up to which a split is read into memory; larger ones are decoded into a file of rows."""
_AGAIN = "run `trm augment` again"
TokenRows = npt.NDArray[np.uint8] | StoredRows
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """N examples: `inputs` and `labels` uint8 [N, L], the rest [N]; read from disk, the arrays cannot be written.

    The rows of a large split stay on disk (`StoredRows`): index them with the rows that are needed.

    The examples of a puzzle and the puzzles of a group stand together. `source_names[source_codes[i]]` is the source
    of example i.
    """

    inputs: TokenRows
    labels: TokenRows
    groups: Int32s
    puzzles: Int32s
    identifiers: Int32s
    source_codes: Int32s
    source_names: tuple[str, ...]
    ratings: Int32s

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def sources(self) -> npt.NDArray[np.object_]:
        """The source of each example, object [N] of str."""
        return np.array(self.source_names, dtype=object)[self.source_codes]

    @cached_property
    def puzzle_starts(self) -> npt.NDArray[np.int64]:
        """First example of each puzzle, then N: int64 [puzzles + 1]."""
        return _starts(self.puzzles)

    @cached_property
    def group_starts(self) -> npt.NDArray[np.int64]:
        """First puzzle of each group, counted as in `puzzle_starts`, then their number: int64 [groups + 1]."""
        return _starts(self.groups[self.puzzle_starts[:-1]])

    def counts(self) -> dict[str, int]:
        """Numbers of groups, puzzles and examples."""
        groups, puzzles = len(self.group_starts) - 1, len(self.puzzle_starts) - 1
        return {"groups": groups, "puzzles": puzzles, "examples": len(self)}


def _starts(names: Int32s) -> npt.NDArray[np.int64]:
    inner = np.flatnonzero(names[1:] != names[:-1]) + 1
    return np.concatenate([[0], inner, [len(names)]]).astype(np.int64)


def write_split(folder: Path, blocks: Iterable[Split], seq_len: int, lineage: Mapping[str, Any]) -> dict[str, int]:
    """Write a split from blocks of whole puzzles, in order; return its counts of groups, puzzles and examples.

    `folder` is made. The blocks share their `source_names`. However the examples are cut into blocks, the bytes are
    the same. Holds at most one block and one row group in memory.
    """
    folder.mkdir(parents=True)
    schema = _schema(seq_len, lineage)
    counts = {"groups": 0, "puzzles": 0, "examples": 0}
    last_group = last_puzzle = None
    rows = _row_group(seq_len)
    with pq.ParquetWriter(
        folder / EXAMPLES,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["source"],  # type: ignore[arg-type]  # pyarrow's own stub knows the boolean alone
        column_encoding={"group": "DELTA_BINARY_PACKED", "puzzle": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        waiting: list[pa.Table] = []
        for block in blocks:
            if not len(block):
                continue
            for name, amount in block.counts().items():
                counts[name] += amount
            # A group that goes on in the next block is one group.
            counts["groups"] -= int(block.groups[0] == last_group)
            counts["puzzles"] -= int(block.puzzles[0] == last_puzzle)
            last_group, last_puzzle = block.groups[-1], block.puzzles[-1]
            table = pa.concat_tables([*waiting, _table(block, schema)])
            whole = len(table) - len(table) % rows
            for start in range(0, whole, rows):
                writer.write_table(table.slice(start, rows).combine_chunks(), row_group_size=rows)
            # Copied, so that the block can go.
            waiting = [table.slice(whole).combine_chunks()] if whole < len(table) else []
        for table in waiting:
            writer.write_table(table, row_group_size=rows)
    return counts


def _row_group(seq_len: int) -> int:
    """Examples in a row group: about a megabyte of inputs."""
    return min(max(2 ** int(math.log2((1 << 20) / seq_len)), 512), 8192)


def _schema(seq_len: int, lineage: Mapping[str, Any]) -> pa.Schema:
    tokens = pa.binary(seq_len)
    fields = {"inputs": tokens, "labels": tokens, "group": pa.int32(), "puzzle": pa.int32(), "identifier": pa.int32()}
    fields |= {"source": pa.string(), "rating": pa.int32()}
    text = json.dumps(lineage, sort_keys=True)
    metadata = {"trm.schema_version": SCHEMA_VERSION, "trm.lineage": text}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()], metadata)


def _table(block: Split, schema: pa.Schema) -> pa.Table:
    def tokens(values: TokenRows) -> pa.Array:
        assert isinstance(values, np.ndarray)  # blocks are made in memory
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.Array.from_buffers(schema.field("inputs").type, len(values), buffers)

    names = pa.array(block.source_names, pa.string())
    columns = [tokens(block.inputs), tokens(block.labels)]
    columns += [pa.array(values) for values in (block.groups, block.puzzles, block.identifiers)]
    columns += [names.take(pa.array(block.source_codes)), pa.array(block.ratings)]
    return pa.Table.from_arrays(columns, schema=schema)


def read_split(folder: str | Path) -> Split:
    """Read a split; inputs and labels of a large one stay in a file, decoded once.

    Raises `DataError` for a missing, cut-off, damaged or foreign file.
    """
    path = Path(folder) / EXAMPLES
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        _check_schema(path, schema, metadata.metadata or {})
        if not metadata.num_rows:
            raise DataError(f"{path}: the split holds no examples; {_AGAIN}")
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["source"]) as file:
            length = schema.field("inputs").type.byte_width
            if 2 * metadata.num_rows * length <= IN_MEMORY:
                inputs, labels = _tokens(file.read(["inputs"])), _tokens(file.read(["labels"]))
            else:
                inputs, labels = stored_rows(path, metadata.num_rows, length, partial(_decoded, path))
            numbers = {name: _int32s(file, name) for name in ("group", "puzzle", "identifier", "rating")}
            source = file.read(["source"]).column("source").unify_dictionaries().combine_chunks()
    except FileNotFoundError:
        raise DataError(f"{path}: no such split; check the path, or {_AGAIN}") from None
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    source = source.chunk(0) if isinstance(source, pa.ChunkedArray) else source
    return Split(
        inputs=inputs,
        labels=labels,
        groups=numbers["group"],
        puzzles=numbers["puzzle"],
        identifiers=numbers["identifier"],
        source_codes=source.indices.to_numpy().astype(np.int32, copy=False),
        source_names=tuple(source.dictionary.to_pylist()),
        ratings=numbers["rating"],
    )


def _int32s(file: pq.ParquetFile, name: str) -> Int32s:
    return file.read([name]).column(name).to_numpy().astype(np.int32, copy=False)


def _decoded(path: Path) -> Decoded:
    """Inputs and labels of a split, a row group at a time. Raises `DataError` for a damaged file."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield _row_group_tokens(file, group)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def read_rows(folder: str | Path, rows: Sequence[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Inputs and labels of a few examples, uint8 [k, L], without decoding the others. Raises `DataError`."""
    path = Path(folder) / EXAMPLES
    found = []
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.searchsorted(ends, rows, side="right").tolist()
            read = {group: _row_group_tokens(file, group) for group in sorted(set(groups))}
        for row, group in zip(rows, groups, strict=True):
            inside = row - int(ends[group]) + sizes[group]
            found.append([tokens[inside] for tokens in read[group]])
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    inputs, labels = zip(*found, strict=True)
    return np.stack(inputs), np.stack(labels)


def _row_group_tokens(file: pq.ParquetFile, group: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    table = file.read_row_group(group, ["inputs", "labels"])
    return _tokens(table.select(["inputs"])), _tokens(table.select(["labels"]))


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file ({reason}); delete it and {_AGAIN}")


def _check_schema(path: Path, schema: pa.Schema, metadata: Mapping[bytes, bytes]) -> None:
    version = metadata.get(b"trm.schema_version", b"").decode("utf-8", "replace")
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version must be {SCHEMA_VERSION}. Got {version or 'none'}; {_AGAIN}")
    length = schema.field(0).type.byte_width if pa.types.is_fixed_size_binary(schema.field(0).type) else 1
    expected = _schema(length, {})
    for field in expected:
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            raise DataError(f"{path}: column {field.name} of type {field.type} is missing; {_AGAIN}")


def _tokens(table: pa.Table) -> npt.NDArray[np.uint8]:
    """The one column of fixed-size binary in `table` as uint8 [N, L], without a copy where it is in one piece."""
    column = table.column(0)
    length = column.type.byte_width
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    values = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return values[array.offset * length : (array.offset + len(array)) * length].reshape(-1, length)


def write_names(dataset: Path, names: Iterable[Sequence[str]]) -> None:
    """Write the names of identifiers 1, 2, … in order."""
    schema = pa.schema([pa.field("name", pa.string(), nullable=False)])
    with pq.ParquetWriter(dataset / NAMES, schema, compression="zstd", use_dictionary=False) as writer:
        for part in names:
            writer.write_table(pa.table([pa.array(part, pa.string())], schema=schema))


def read_names(dataset: str | Path) -> pa.ChunkedArray:
    """The names of identifiers 1, 2, … (take index i - 1 for identifier i), strings. Raises `DataError`."""
    path = Path(dataset) / NAMES
    try:
        return pq.read_table(path).column("name")
    except (OSError, KeyError, pa.ArrowException):
        raise DataError(f"{path}: missing or not a whole Parquet file; {_AGAIN}") from None


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """The lineage in the metadata of a split: source digests, params, seed, library versions, key."""
    path = Path(folder) / EXAMPLES
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata.get(b"trm.lineage", b"{}"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such split; check the path, or {_AGAIN}") from None
    except (OSError, ValueError, pa.ArrowException):
        raise DataError(f"{path}: not a whole Parquet file; delete it and {_AGAIN}") from None


def write_meta(dataset: Path, meta: DatasetMeta, splits: Mapping[str, Mapping[str, int]]) -> None:
    """Write meta.json: canvas, vocabulary, identifiers, and the counts of each split."""
    values = {"schema_version": SCHEMA_VERSION, **meta.model_dump(mode="json"), "splits": splits}
    (dataset / "meta.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_meta(dataset: str | Path) -> DatasetMeta:
    """Canvas, vocabulary and identifiers of a data set. Raises `DataError` where meta.json is missing or broken."""
    values = _read_json(dataset)
    fields = {name: values[name] for name in DatasetMeta.model_fields if name in values}
    try:
        return DatasetMeta.model_validate(fields)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise DataError(f"{Path(dataset) / 'meta.json'}: {key} is missing or wrong; {_AGAIN}") from None


def read_counts(dataset: str | Path) -> dict[str, dict[str, int]]:
    """Groups, puzzles and examples of each split: train, validation (if groups are held out), test."""
    return _read_json(dataset)["splits"]


def splits(dataset: str | Path) -> list[str]:
    """The names of the splits that a data set has."""
    return list(read_counts(dataset))


def _read_json(dataset: str | Path) -> dict[str, Any]:
    path = Path(dataset) / "meta.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file, so {dataset} is not a data set; check the path, or {_AGAIN}") from None
    except (OSError, ValueError):
        raise DataError(f"{path}: not readable JSON; {_AGAIN}") from None
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION or "splits" not in values:
        raise DataError(f"{path}: not a meta.json of schema version {SCHEMA_VERSION}; {_AGAIN}")
    return values
