"""Datasets on disk: meta.json, and one folder per split with the file examples.parquet.

Columns of examples.parquet:

- `inputs`, `labels`: fixed_size_binary(L), one byte per token; label 0 is padding.
- `group`: int32, the unit of splitting and sampling; in CSV datasets the row, from 0.
- `puzzle`: int32, counts the puzzles of the split.
- `identifier`: int32, row of the puzzle embedding.
- `source`: string, origin of the puzzle.
- `rating`: int32, difficulty.

The file metadata contains the schema version and the lineage. If puzzles have identifiers, identifiers.parquet contains
their names in order.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from trm.config.dataset_meta import DatasetMeta
from trm.data.row_cache import CachedRows, DecodedBlocks, cached_rows
from trm.utils.errors import DataError
from trm.utils.file_formats import detect_format, read_head

SCHEMA_VERSION = "1"
EXAMPLES = "examples.parquet"
NAMES_FILE = "identifiers.parquet"
MAX_BYTES_IN_MEMORY = 64 << 20
"""Largest size of inputs and labels that is read into memory; larger splits use `trm.data.row_cache`."""
_REMEDY = "run `trm augment` again"
TokenRows = npt.NDArray[np.uint8] | CachedRows
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Split:
    """N examples. Arrays read from disk are read-only.

    The examples of a puzzle are contiguous, and so are the puzzles of a group. `source_names[source_codes[i]]` is the
    source of example i.
    """

    inputs: TokenRows
    """Input tokens, uint8 [N, L]; `CachedRows` for large splits."""
    labels: TokenRows
    """Label tokens, uint8 [N, L]; `CachedRows` for large splits."""
    groups: Int32s
    """Group numbers, int32 [N]."""
    puzzles: Int32s
    """Puzzle numbers, int32 [N]."""
    identifiers: Int32s
    """Rows of the puzzle embedding, int32 [N]."""
    source_codes: Int32s
    """Indices into `source_names`, int32 [N]."""
    source_names: tuple[str, ...]
    """Names of the sources."""
    ratings: Int32s
    """Difficulty, int32 [N]."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def sources(self) -> npt.NDArray[np.object_]:
        """Source of each example, object [N] of str."""
        return np.array(self.source_names, dtype=object)[self.source_codes]

    @cached_property
    def puzzle_starts(self) -> npt.NDArray[np.int64]:
        """First example of each puzzle, followed by N: int64 [puzzles + 1]."""
        return _starts(self.puzzles)

    @cached_property
    def group_starts(self) -> npt.NDArray[np.int64]:
        """First puzzle of each group (index into `puzzle_starts`), followed by the number of puzzles: int64 [groups +
        1].
        """
        return _starts(self.groups[self.puzzle_starts[:-1]])

    @staticmethod
    def concatenate(blocks: "Sequence[Split]") -> "Split":
        """The examples of all blocks in memory, in order; they have the same `source_names`."""
        values: dict[str, Any] = {
            field.name: np.concatenate([getattr(block, field.name) for block in blocks])
            for field in fields(Split)
            if field.name != "source_names"
        }
        return Split(source_names=blocks[0].source_names, **values)

    def counts(self) -> dict[str, int]:
        """Numbers of groups, puzzles and examples."""
        groups, puzzles = len(self.group_starts) - 1, len(self.puzzle_starts) - 1
        return {"groups": groups, "puzzles": puzzles, "examples": len(self)}


def _starts(names: Int32s) -> npt.NDArray[np.int64]:
    inner = np.flatnonzero(names[1:] != names[:-1]) + 1
    return np.concatenate([[0], inner, [len(names)]]).astype(np.int64)


def write_split(folder: Path, blocks: Iterable[Split], seq_len: int, lineage: Mapping[str, Any]) -> dict[str, int]:
    """Write a split from blocks of complete puzzles, in order; return the numbers of groups, puzzles and examples.

    `folder` is created. The blocks have the same `source_names`. The bytes of the file do not depend on the block
    boundaries. Memory use: one block and one row group.
    """
    folder.mkdir(parents=True)
    schema = _schema(seq_len, lineage)
    counts = {"groups": 0, "puzzles": 0, "examples": 0}
    last_group = last_puzzle = None
    rows = row_group_size(seq_len)
    with pq.ParquetWriter(
        folder / EXAMPLES,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["source"],  # type: ignore[arg-type]  # the stub of pyarrow allows only a boolean
        column_encoding={"group": "DELTA_BINARY_PACKED", "puzzle": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        buffered: list[pa.Table] = []
        for block in blocks:
            if not len(block):
                continue
            for name, amount in block.counts().items():
                counts[name] += amount
            # A group may extend over several blocks.
            counts["groups"] -= int(block.groups[0] == last_group)
            counts["puzzles"] -= int(block.puzzles[0] == last_puzzle)
            last_group, last_puzzle = block.groups[-1], block.puzzles[-1]
            table = pa.concat_tables([*buffered, _table(block, schema)])
            complete = len(table) - len(table) % rows
            for start in range(0, complete, rows):
                writer.write_table(table.slice(start, rows).combine_chunks(), row_group_size=rows)
            # A copy, so that the memory of the block is released.
            buffered = [table.slice(complete).combine_chunks()] if complete < len(table) else []
        for table in buffered:
            writer.write_table(table, row_group_size=rows)
    return counts


def row_group_size(seq_len: int) -> int:
    """Examples per row group: about one megabyte of inputs."""
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
        assert isinstance(values, np.ndarray)  # blocks are in memory
        buffers = [None, pa.py_buffer(np.ascontiguousarray(values))]
        return pa.Array.from_buffers(schema.field("inputs").type, len(values), buffers)

    names = pa.array(block.source_names, pa.string())
    columns = [tokens(block.inputs), tokens(block.labels)]
    columns += [pa.array(values) for values in (block.groups, block.puzzles, block.identifiers)]
    columns += [names.take(pa.array(block.source_codes)), pa.array(block.ratings)]
    return pa.Table.from_arrays(columns, schema=schema)


def read_split(folder: str | Path) -> Split:
    """Read a split; inputs and labels of a large one stay on disk, decoded once.

    Raises `DataError` if the file is missing, truncated, damaged or has another schema.
    """
    path = Path(folder) / EXAMPLES
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        _check_schema(path, schema, metadata.metadata or {})
        if not metadata.num_rows:
            raise DataError(f"{path}: the split contains no examples; {_REMEDY}")
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["source"]) as file:
            length = schema.field("inputs").type.byte_width
            if 2 * metadata.num_rows * length <= MAX_BYTES_IN_MEMORY:
                inputs, labels = _tokens(file.read(["inputs"])), _tokens(file.read(["labels"]))
            else:
                inputs, labels = cached_rows(path, metadata.num_rows, length, partial(_decode_blocks, path))
            numbers = {name: _int32s(file, name) for name in ("group", "puzzle", "identifier", "rating")}
            source = file.read(["source"]).column("source").unify_dictionaries().combine_chunks()
    except FileNotFoundError:
        raise DataError(f"{path}: no such split; check the path, or {_REMEDY}") from None
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


def _decode_blocks(path: Path) -> DecodedBlocks:
    """Inputs and labels of a split, one row group at a time. Raises `DataError` if the file is damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield _row_group_tokens(file, group)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def read_rows(folder: str | Path, rows: Sequence[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Inputs and labels of the given examples, uint8 [k, L] each; decodes only their row groups.

    Raises `DataError` if the file is damaged.
    """
    path = Path(folder) / EXAMPLES
    selected = []
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = np.searchsorted(ends, rows, side="right").tolist()
            read = {group: _row_group_tokens(file, group) for group in sorted(set(groups))}
        for row, group in zip(rows, groups, strict=True):
            inside = row - int(ends[group]) + sizes[group]
            selected.append([tokens[inside] for tokens in read[group]])
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    inputs, labels = zip(*selected, strict=True)
    return np.stack(inputs), np.stack(labels)


def _row_group_tokens(file: pq.ParquetFile, group: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    table = file.read_row_group(group, ["inputs", "labels"])
    return _tokens(table.select(["inputs"])), _tokens(table.select(["labels"]))


def _damaged(path: Path, error: Exception) -> DataError:
    found = detect_format(read_head(path)) if path.is_file() else None
    if found is not None and found[0] != "a Parquet file":
        return DataError(f"{path}: is {found[0]}, not a Parquet file; {found[1]}, or {_REMEDY}")
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a valid Parquet file ({reason}); delete it and {_REMEDY}")


def _check_schema(path: Path, schema: pa.Schema, metadata: Mapping[bytes, bytes]) -> None:
    version = metadata.get(b"trm.schema_version", b"").decode("utf-8", "replace")
    if version != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version must be {SCHEMA_VERSION}. Got {version or 'none'}; {_REMEDY}")
    length = schema.field(0).type.byte_width if pa.types.is_fixed_size_binary(schema.field(0).type) else 1
    expected = _schema(length, {})
    for field in expected:
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            raise DataError(f"{path}: column {field.name} of type {field.type} is missing; {_REMEDY}")


def _tokens(table: pa.Table) -> npt.NDArray[np.uint8]:
    """The single fixed_size_binary column of `table` as uint8 [N, L], without a copy if it has one chunk."""
    column = table.column(0)
    length = column.type.byte_width
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    values = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return values[array.offset * length : (array.offset + len(array)) * length].reshape(-1, length)


def write_names(dataset: Path, names: Iterable[Sequence[str]]) -> None:
    """Write the names of identifiers 1, 2, … in order."""
    schema = pa.schema([pa.field("name", pa.string(), nullable=False)])
    with pq.ParquetWriter(dataset / NAMES_FILE, schema, compression="zstd", use_dictionary=False) as writer:
        for part in names:
            writer.write_table(pa.table([pa.array(part, pa.string())], schema=schema))


def read_names(dataset: str | Path) -> pa.ChunkedArray:
    """The names of identifiers 1, 2, …: strings; identifier i has index i - 1.

    Raises `DataError` if the file is missing or invalid.
    """
    path = Path(dataset) / NAMES_FILE
    try:
        return pq.read_table(path).column("name")
    except (OSError, KeyError, pa.ArrowException):
        raise DataError(f"{path}: missing or invalid Parquet file; {_REMEDY}") from None


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """The lineage of a split: source digests, settings, library versions and content key.

    Raises `DataError` if the file is missing or invalid.
    """
    path = Path(folder) / EXAMPLES
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata.get(b"trm.lineage", b"{}"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such split; check the path, or {_REMEDY}") from None
    except (OSError, ValueError, pa.ArrowException):
        raise DataError(f"{path}: not a valid Parquet file; delete it and {_REMEDY}") from None


def write_meta(
    dataset: Path,
    meta: DatasetMeta,
    splits: Mapping[str, Mapping[str, int]],
    leaks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write meta.json: canvas, vocabulary, number of identifiers, the counts of each split, and the leaked test groups
    (see `trm.data.protocol.DatasetPlan`).
    """
    values = {"schema_version": SCHEMA_VERSION, **meta.model_dump(mode="json"), "splits": splits}
    values |= {"leaks": leaks} if leaks is not None else {}
    (dataset / "meta.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_meta(dataset: str | Path) -> DatasetMeta:
    """Canvas, vocabulary and number of identifiers. Raises `DataError` if meta.json is missing or invalid."""
    values = _read_json(dataset)
    fields = {name: values[name] for name in DatasetMeta.model_fields if name in values}
    try:
        return DatasetMeta.model_validate(fields)
    except ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise DataError(f"{Path(dataset) / 'meta.json'}: {key} is missing or invalid; {_REMEDY}") from None


def read_counts(dataset: str | Path) -> dict[str, dict[str, int]]:
    """Numbers of groups, puzzles and examples of each split: train, validation (if groups are held out), test.

    Raises `DataError` if meta.json is missing or invalid.
    """
    return _read_json(dataset)["splits"]


def read_leaks(dataset: str | Path) -> dict[str, list[str]] | None:
    """Name of each test group that is trained on under other names -> these names; None if leakage is an error.

    Raises `DataError` if meta.json is missing or invalid.
    """
    return _read_json(dataset).get("leaks")


def _read_json(dataset: str | Path) -> dict[str, Any]:
    path = Path(dataset) / "meta.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; {dataset} is not a dataset; check the path, or {_REMEDY}") from None
    except (OSError, ValueError):
        raise DataError(f"{path}: invalid JSON; {_REMEDY}") from None
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION or "splits" not in values:
        raise DataError(f"{path}: not a meta.json of schema version {SCHEMA_VERSION}; {_REMEDY}")
    return values
