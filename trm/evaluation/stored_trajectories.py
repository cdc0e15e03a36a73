"""The trajectories that stage `evaluate` stores for a sample of the puzzles, and the sweep of stage `report` reuses."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trm.config.evaluation import EvaluateParams
from trm.evaluation.eval_dataset import EvalDataset, EvalExample
from trm.inference.engine import Outputs, Tokens
from trm.utils.errors import DataError
from trm.utils.memory import check_memory

FILE = "trajectories.parquet"
SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "puzzle": pa.int32(),  # row of the split
        "transform": pa.string(),  # the augmentation
        "tokens": pa.binary(),  # the answer to the augmentation after each step, [S, L]
        "halt_logit": pa.list_(pa.float32()),  # after each step, [S]
        "halts": pa.list_(pa.bool_()),  # halting decision after each step, [S]
    }
)
BYTES_PER_STEP = 5
"""Memory of a step of a sequence, in addition to its tokens."""


class TrajectoryRecorder:
    """Records the trajectories of some sequences of a call of `trm.inference.engine.predict`."""

    def __init__(self, which: npt.NDArray[np.bool_], steps: int, length: int) -> None:
        """which: the sequences to record, bool [N]. length: tokens of a sequence, L."""
        self._slots = np.where(which, which.cumsum() - 1, -1)
        count = int(which.sum())
        self._tokens = np.zeros((count, steps, length), np.uint8)
        self._logits, self._halts = np.zeros((count, steps), np.float32), np.zeros((count, steps), bool)

    def add(self, rows: npt.NDArray[np.int64], step: int, outputs: Outputs) -> None:
        """Record the outputs of the sequences `rows` (int64 [B]) after `step`, from 1."""
        slots = self._slots[rows]
        kept = slots >= 0
        for values, output in zip((self._tokens, self._logits, self._halts), outputs, strict=True):
            values[slots[kept], step - 1] = output[kept]

    def rows(self, split: str, examples: Sequence[EvalExample]) -> pa.Table:
        """The trajectories as rows of `SCHEMA`. examples: those of the N sequences, in order."""
        keys = [(example.row, name) for example in examples for name in example.augmentations.names]
        recorded = [key for key, slot in zip(keys, self._slots, strict=True) if slot >= 0]
        columns = {
            "split": [split] * len(recorded),
            "puzzle": [row for row, _ in recorded],
            "transform": [name for _, name in recorded],
            "tokens": [tokens.tobytes() for tokens in self._tokens],
            "halt_logit": list(self._logits),
            "halts": list(self._halts),
        }
        return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


class TrajectoryStore:
    """Collects the trajectories of a split, and selects their puzzles."""

    def __init__(self, split: str, tests: EvalDataset, settings: EvaluateParams) -> None:
        """Selects `settings.trajectory_puzzles` puzzles of `tests`, the puzzles of the split.

        Only steps without noise of sequences that are computed to the end can be reused, so with other settings nothing
        is recorded. Raises `UserError` if the trajectories exceed the memory.
        """
        self.tables: list[pa.Table] = []
        self._split = split
        is_complete = not settings.early_halting and not settings.stops_puzzles
        most = settings.trajectory_puzzles if is_complete and settings.num_samples == 1 else 0
        tasks = tests.draw(most)
        self._tasks = {tests.name(task) for task in tasks}
        of_step = (tests.meta.seq_len + BYTES_PER_STEP) * sum(tests.num_sequences(task) for task in tasks)
        check_memory(of_step * settings.max_steps, f"evaluate.trajectory_puzzles={most}")

    def recorder(self, examples: Sequence[EvalExample], steps: int) -> TrajectoryRecorder | None:
        """Return a recorder for the sequences of `examples`; None if none of them is recorded."""
        which = np.array([example.task in self._tasks for example in examples for _ in example.identifiers])
        return TrajectoryRecorder(which, steps, examples[0].augmentations.tokens.shape[1]) if which.any() else None

    def add(self, recorder: TrajectoryRecorder, examples: Sequence[EvalExample]) -> None:
        """Add the trajectories of the `examples` of `recorder`."""
        self.tables.append(recorder.rows(self._split, examples))


def write_trajectories(file: Path, tables: Sequence[pa.Table]) -> None:
    """Write the tables of all stores and processes, if there are any, in an order that does not depend on them."""
    if tables:
        table = pa.concat_tables(tables).sort_by([("split", "ascending"), ("puzzle", "ascending")])  # stable
        # A quarter smaller than with the default encodings: most tokens and all logits are distinct values.
        encodings: dict[str, Any] = {"use_dictionary": ["split", "puzzle", "transform"]}
        encodings["use_byte_stream_split"] = ["halt_logit.list.element"]
        pq.write_table(table, file, compression="zstd", **encodings)


class StoredTrajectories:
    """The stored trajectories of a split, by puzzle and augmentation."""

    def __init__(self, table: pa.Table, steps: int) -> None:
        """table: rows of `SCHEMA` with at least `steps` steps, which is the number that is used."""
        self._rows = {key: row for row, key in enumerate(_keys(table))}
        self._steps = steps
        self._tokens = table.column("tokens").to_pylist()
        self._logits, self._halts = table.column("halt_logit").to_pylist(), table.column("halts").to_pylist()

    @classmethod
    def read(cls, file: Path, split: str, steps: int) -> "StoredTrajectories":
        """The trajectories of a split in the file of an evaluation. Raises `DataError` if it is damaged."""
        try:
            table = pq.read_table(file, columns=SCHEMA.names, filters=pc.field("split") == split)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{file}: not a complete file ({reason}); run `trm evaluate` again") from None
        return cls(table, steps)

    def find(self, examples: Sequence[EvalExample]) -> npt.NDArray[np.int64]:
        """The number of the trajectory of each sequence of `examples`, int64 [B]; -1 if there is none."""
        keys = ((example.row, name) for example in examples for name in example.augmentations.names)
        return np.array([self._rows.get(key, -1) for key in keys], np.int64)

    def outputs(self, number: int) -> tuple[Tokens, list[float], list[bool]]:
        """Tokens [S, L], halt logits [S] and halting decisions [S] of a trajectory."""
        logits, halts = self._logits[number], self._halts[number]
        tokens = np.frombuffer(self._tokens[number], np.uint8).reshape(len(logits), -1)
        return tokens[: self._steps], logits[: self._steps], halts[: self._steps]


def _keys(table: pa.Table) -> Iterator[tuple[int, str]]:
    return zip(table.column("puzzle").to_pylist(), table.column("transform").to_pylist(), strict=True)
