"""The puzzles of an evaluation: a split of a dataset with the augmentations that vote."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import Split, read_names, read_split
from trm.data.protocol import Grid
from trm.datasets.registry import get_dataset
from trm.inference.puzzle import EvalPuzzle, make_puzzle
from trm.utils.errors import UserError

NOISE = 2
"""Distinguishes the seeds of the noise from those of the augmentations (1)."""


@dataclass(frozen=True)
class EvalExample(EvalPuzzle):
    """A test example with its augmentations and its solution."""

    task: str
    """Name of the task, or its number in the raw file."""
    pair: int
    """Number of the example among the test examples of the task, from 0."""
    row: int
    """Row of the puzzle itself in the split."""
    solution: Grid | None
    """The correct answer; None if unknown."""
    labels: np.ndarray | None
    """uint8 [k, L] if the augmentations are stored in the dataset; None if they were drawn here."""


class EvalDataset:
    """A validation or test split, task by task."""

    def __init__(
        self,
        split: Split,
        names: pa.ChunkedArray | None,
        meta: DatasetMeta,
        num_votes: int,
        max_puzzles: int | None,
        seed: int,
    ) -> None:
        """names: names of the identifiers 1, 2, …, strings; None if puzzles have no identifiers of their own.
        num_votes: augmentations of each puzzle. max_puzzles: size of the random sample of tasks; None: all. seed: seed
        of the sample, the augmentations and the noise.
        """
        self.meta, self.dataset = meta, get_dataset(meta.name)
        self.num_votes, self.max_puzzles, self.seed = num_votes, max_puzzles, seed
        # Puzzles with identifiers were trained in all stored augmentations: these vote, no new ones are drawn.
        self.split, self.names = split, names

    @classmethod
    def read(
        cls,
        dataset: Path,
        meta: DatasetMeta,
        num_votes: int,
        max_puzzles: int | None,
        seed: int,
        split: str = "test",
    ) -> "EvalDataset":
        """Read a split of the folder `dataset`. Raises `DataError` for missing or damaged files."""
        names = read_names(dataset) if meta.puzzles_digest else None
        return cls(read_split(dataset / split), names, meta, num_votes, max_puzzles, seed)

    def sample(self) -> np.ndarray:
        """The tasks to score, int64, in the order of the split: all, or `max_puzzles` drawn by the seed."""
        return self.draw(self.max_puzzles)

    def draw(self, most: int | None) -> np.ndarray:
        """`most` tasks drawn by the seed, int64, in the order of the split; all if `most` is None or larger."""
        count = len(self.split.group_starts) - 1
        if most is None or most >= count:
            return np.arange(count)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, count]))
        return np.sort(rng.choice(count, most, replace=False))

    def num_sequences(self, task: int) -> int:
        """Sequences of a task: test examples times augmentations."""
        return self.num_pairs(task) * self._num_augmentations(task)

    def num_pairs(self, task: int) -> int:
        """Test examples of a task."""
        return len(self._rows(self.split.group_starts[task]))

    def name(self, task: int) -> str:
        """The name of a task, or its number in the raw file if it has no name."""
        row = self.split.puzzle_starts[self.split.group_starts[task]]
        if self.names is None:
            return str(self.split.groups[row])
        return self.names[int(self.split.identifiers[row]) - 1].as_py()

    def examples(self, task: int) -> Iterator[EvalExample]:
        """The test examples of a task."""
        first = int(self.split.group_starts[task])
        for pair, row in enumerate(self._rows(first)):
            rows = self.split.puzzle_starts[first : first + self._num_augmentations(task)] + pair
            if self.names is None:
                rows = rows[:1]
            inputs, labels = self.split.inputs[rows], self.split.labels[rows]
            if self.names is None:
                # Seeded by the row, so that a sample of the puzzles gets the same augmentations as all of them.
                rng = np.random.default_rng(np.random.SeedSequence([self.seed, row, 1]))
                augmentations = self.dataset.augmentations(self.meta, inputs[0], rng, self.num_votes)
                identity = augmentations
                if self.num_votes > 1:
                    identity = self.dataset.augmentations(self.meta, inputs[0], rng, 1)
                identifiers = self.split.identifiers[rows].repeat(self.num_votes)
            else:
                identifiers = self.split.identifiers[rows]
                names = self.names.take(pa.array(identifiers - 1)).to_pylist()
                augmentations = self.dataset.recall(self.meta, inputs, names)
                identity = self.dataset.recall(self.meta, inputs[:1], names[:1])
            yield EvalExample(
                grid=identity.invert(inputs[:1])[0],
                augmentations=augmentations,
                identifiers=identifiers,
                seeds=[[self.seed, row, NOISE, index] for index in range(len(identifiers))],
                task=self.name(task),
                pair=pair,
                row=row,
                solution=identity.invert(labels[:1])[0] if labels[0].any() else None,
                labels=None if self.names is None else labels,
            )

    def puzzle(self, task: int, pair: int = 0) -> tuple[EvalPuzzle, Grid | None]:
        """A test example and its solution (None if unknown). The votes are those of `trm solve` or, if puzzles have
        identifiers, the augmentations of the dataset.
        """
        example = next(islice(self.examples(task), pair, None))
        if self.names is None:
            return make_puzzle(self.meta, self.split.inputs[example.row], self.num_votes, self.seed), example.solution
        seeds = [[self.seed, 0, number] for number in range(example.num_votes)]
        return EvalPuzzle(example.grid, example.augmentations, example.identifiers, seeds), example.solution

    def _rows(self, puzzle: int) -> list[int]:
        return list(range(*self.split.puzzle_starts[puzzle : puzzle + 2].tolist()))

    def _num_augmentations(self, task: int) -> int:
        if self.names is None:
            return self.num_votes
        first, end = self.split.group_starts[task : task + 2]
        return min(self.num_votes, int(end - first))


def check_same_dataset(model: Path, trained_on: DatasetMeta, dataset: Path, meta: DatasetMeta) -> None:
    """Raise `UserError` unless `trained_on`, the metadata of the model's dataset, equals `meta`."""
    if trained_on == meta:
        return
    if (trained_on.edition, meta.edition) == ("arc-agi-2", "arc-agi-1"):
        raise UserError(
            f"{model}: was trained on ARC-AGI-2, whose training tasks include evaluation tasks of ARC-AGI-1, so its "
            f"score on {dataset} would be invalid; train on the arc-agi-1 recipe instead"
        )
    expected, got = _description(trained_on), _description(meta)
    if expected == got:
        expected, got = "other puzzles (or other augmentations of them)", "puzzles that its identifiers do not match"
    raise UserError(
        f"{model}: trained on {expected}, but {dataset} contains {got}; give the dataset that the model was trained on"
    )


def _description(meta: DatasetMeta) -> str:
    return f"{meta.edition or meta.name} {meta.height} x {meta.width} with {meta.vocab_size} tokens"
