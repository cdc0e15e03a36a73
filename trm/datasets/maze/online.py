"""Augmentation of mazes while a model is trained."""

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Tokens
from trm.data.symmetries import INVERSE, apply_symmetry


def augment_examples(
    meta: DatasetMeta, inputs: Tokens, labels: Tokens, words: npt.NDArray[np.uint64]
) -> tuple[Tokens, Tokens]:
    """A random symmetry of each example; see `trm.data.protocol.AugmentExamples`."""
    results = np.empty_like(inputs), np.empty_like(labels)
    drawn = words % len(INVERSE)
    for symmetry in range(len(INVERSE)):
        chosen = np.flatnonzero(drawn == symmetry)
        for tokens, result in zip((inputs, labels), results, strict=True):
            grids = tokens[chosen].reshape(-1, meta.height, meta.width)
            result[chosen] = apply_symmetry(grids, symmetry).reshape(len(chosen), -1)
    return results
