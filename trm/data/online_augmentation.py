"""Changes of training examples when they are read: augmentations and hints.

All draws are functions of the seed, the epoch and the row of an example. So they are the same for any number of
processes and workers, and for a resumed run.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.data.batches import IGNORE_INDEX, Rows
from trm.data.protocol import AugmentExamples

Arrays = dict[str, npt.NDArray[np.int32]]
Words = npt.NDArray[np.uint64]
_HINTS = 1
"""Number of the random stream of hints; that of augmentations is 0."""


class OnlineAugmentation:
    """Changes the examples of a batch: first the augmentation, then hints."""

    def __init__(
        self, meta: DatasetMeta, seed: int, augment: AugmentExamples | None, max_hints: tuple[float, float]
    ) -> None:
        """augment: the dataset's `augment_examples`; None: no augmentation.

        max_hints: `train.max_hints` and `train.final_max_hints`.
        """
        self._meta, self._seed, self._augment, self._max_hints = meta, seed, augment, max_hints

    def __call__(self, batch: Mapping[str, npt.NDArray[np.int32]], rows: Rows, epochs: Rows, progress: float) -> Arrays:
        """The changed batch.

        batch: as returned by `collate`. rows, epochs: int64 [B]. progress: completed fraction of the training.
        """
        inputs, labels = batch["inputs"], batch["labels"]
        if self._augment is not None:
            states = example_words(self._seed, epochs, rows, 0)
            ignored = labels == IGNORE_INDEX
            tokens = np.where(ignored, 0, labels).astype(np.uint8)
            augmented = self._augment(self._meta, inputs.astype(np.uint8), tokens, states)
            inputs, labels = (tokens.astype(np.int32) for tokens in augmented)
            labels[labels == 0] = IGNORE_INDEX
        if any(self._max_hints):
            words = example_words(self._seed, epochs, rows, _HINTS)
            first, last = self._max_hints
            inputs = with_hints(inputs, labels, words, first * (1 - progress) + last * progress)
        return {**batch, "inputs": inputs, "labels": labels}


def with_hints(
    inputs: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], words: Words, max_hints: float
) -> npt.NDArray[np.int32]:
    """Copy labels to the inputs, at random cells of each example where they differ: int32 [B, L].

    words: uint64 [B], the random states of the examples. The probability of a cell is drawn uniformly from 0 to
    `max_hints` for each example.
    """
    fractions = max_hints * _uniform(words)
    cells = np.arange(1, inputs.shape[1] + 1, dtype=np.uint64)
    drawn = _uniform(_mix(words[:, None] + cells * _GOLDEN)) < fractions[:, None]
    return np.where(drawn & (labels != IGNORE_INDEX), labels, inputs)


def example_words(seed: int, epochs: Rows, rows: Rows, stream: int) -> Words:
    """A random word for each example, uint64 [B]: a function of seed, stream, epoch and row."""
    base = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    return _mix(_mix(base + epochs.astype(np.uint64) * _GOLDEN) + rows.astype(np.uint64) * _GOLDEN)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: Words) -> Words:
    """The output function of splitmix64 (Steele, Lea, Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _uniform(words: Words) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
