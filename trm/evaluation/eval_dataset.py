"""What an evaluation asks: the puzzles of a split, each in the versions that vote on its answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trm.data.protocol import Grid, Augmentations
from trm.datasets.registry import get_dataset
from trm.data.parquet import Split, read_names, read_split
from trm.utils.errors import UserError
from trm.config.dataset_meta import DatasetMeta


@dataclass(frozen=True)
class Question:
    """One test example and its k versions."""

    task: str
    pair: int
    """Which of the task's test examples it is, from 0."""
    row: int
    """Of the puzzle itself in the split."""
    grid: Grid
    """What is asked, as a person sees it."""
    right: Grid | None
    """The right answer; None where nobody knows it."""
    versions: Augmentations
    identifiers: np.ndarray
    """int32 [k]."""
    labels: np.ndarray | None
    """uint8 [k, L], where the versions lie in the data set; None where they were drawn now."""

    @property
    def count(self) -> int:
        """Versions there are (k)."""
        return len(self.identifiers)


class EvalDataset:
    """A split of a data set that nothing was trained on, task by task."""

    __test__ = False  # pytest would collect it by its name

    def __init__(
        self, dataset: Path, meta: DatasetMeta, votes: int, max_puzzles: int | None, seed: int, split: str = "test"
    ) -> None:
        """Each puzzle is asked in `votes` versions; `max_puzzles` (None: all) and the versions are drawn by `seed`."""
        self.meta, self.kind = meta, get_dataset(meta.name)
        self.votes, self.max_puzzles, self.seed = votes, max_puzzles, seed
        self.split: Split = read_split(dataset / split)
        # Puzzles with identifiers of their own were trained in every version: those are asked, not new ones.
        self.names: pa.ChunkedArray | None = read_names(dataset) if meta.puzzles_digest else None

    def sample(self) -> np.ndarray:
        """The tasks to score, int64, in the order of the split: all of them, or `max_puzzles` drawn by the seed."""
        count, most = len(self.split.group_starts) - 1, self.max_puzzles
        if most is None or most >= count:
            return np.arange(count)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, count]))
        return np.sort(rng.choice(count, most, replace=False))

    def sequences(self, task: int) -> int:
        """How many sequences a task asks of the model."""
        return self.pairs(task) * self._versions(task)

    def pairs(self, task: int) -> int:
        """Test examples of a task."""
        rows = self._rows(self.split.group_starts[task])
        return len(rows)

    def name(self, task: int) -> str:
        """The task's name, or its number in the raw file where it has none."""
        row = self.split.puzzle_starts[self.split.group_starts[task]]
        if self.names is None:
            return str(self.split.groups[row])
        return self.names[int(self.split.identifiers[row]) - 1].as_py()

    def questions(self, task: int) -> Iterator[Question]:
        """The questions of a task, one for each of its test examples."""
        first = int(self.split.group_starts[task])
        for pair, row in enumerate(self._rows(first)):
            rows = self.split.puzzle_starts[first : first + self._versions(task)] + pair
            if self.names is None:
                rows = rows[:1]
            asked, labels = self.split.inputs[rows], self.split.labels[rows]
            if self.names is None:
                # A draw depends on seed and row alone: a sample of the puzzles sees the same versions as all of them.
                rng = np.random.default_rng(np.random.SeedSequence([self.seed, row, 1]))
                versions = self.kind.versions(self.meta, asked[0], rng, self.votes)
                itself = versions if self.votes == 1 else self.kind.versions(self.meta, asked[0], rng, 1)
                identifiers = self.split.identifiers[rows].repeat(self.votes)
            else:
                identifiers = self.split.identifiers[rows]
                names = self.names.take(pa.array(identifiers - 1)).to_pylist()
                versions = self.kind.recall(self.meta, asked, names)
                itself = self.kind.recall(self.meta, asked[:1], names[:1])
            yield Question(
                task=self.name(task),
                pair=pair,
                row=row,
                grid=itself.undo(asked[:1])[0],
                right=itself.undo(labels[:1])[0] if labels[0].any() else None,
                versions=versions,
                identifiers=identifiers,
                labels=None if self.names is None else labels,
            )

    def _rows(self, puzzle: int) -> list[int]:
        return list(range(*self.split.puzzle_starts[puzzle : puzzle + 2].tolist()))

    def _versions(self, task: int) -> int:
        if self.names is None:
            return self.votes
        first, end = self.split.group_starts[task : task + 2]
        return min(self.votes, int(end - first))


def check_same_dataset(model: Path, trained_on: DatasetMeta, dataset: Path, meta: DatasetMeta) -> None:
    """Raise `UserError` unless the model was trained on this data set, or on one that cannot be told from it."""
    if trained_on == meta:
        return
    if (trained_on.edition, meta.edition) == ("arc-agi-2", "arc-agi-1"):
        raise UserError(
            f"{model}: was trained on ARC-AGI-2, whose training tasks hold evaluation tasks of ARC-AGI-1, so its score "
            f"on {dataset} would mean nothing; train on the arc-agi-1 recipe to be scored there"
        )
    was, holds = _described(trained_on), _described(meta)
    if was == holds:
        was, holds = "other puzzles (or other versions of them)", "puzzles that its identifiers do not stand for"
    raise UserError(
        f"{model}: trained on {was}, but {dataset} holds {holds}; name the data set that the model was trained on"
    )


def _described(meta: DatasetMeta) -> str:
    return f"{meta.edition or meta.name} {meta.height} x {meta.width} of {meta.vocab_size} tokens"
