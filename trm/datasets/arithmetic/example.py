"""Single sums, for demonstrations."""

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Grid
from trm.datasets.arithmetic.dataset import VOCABULARY, draw_sums


def generate_question(meta: DatasetMeta, seed: int) -> Grid:
    """A sum without its result, such as `012+345=`."""
    digits = meta.width // 3 - 1
    first, second = (int(numbers[0]) for numbers in draw_sums(digits, 1, seed))
    text = f"{first:0{digits}}+{second:0{digits}}="
    return np.array([[VOCABULARY.index(character) - 1 for character in text]], np.uint8)
