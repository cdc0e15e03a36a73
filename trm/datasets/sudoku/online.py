"""Augmentation of Sudoku examples while a model is trained."""

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Tokens
from trm.datasets.sudoku.augmentation import augment_puzzles


def augment_examples(
    meta: DatasetMeta, inputs: Tokens, labels: Tokens, words: npt.NDArray[np.uint64]
) -> tuple[Tokens, Tokens]:
    """A random transform of each example; see `trm.data.protocol.AugmentExamples`."""
    del meta
    inputs, labels = augment_puzzles(inputs, labels, words, 1)
    return inputs[1::2], labels[1::2]
