"""Lookup of augmentations during training: `augment_examples` in the optional module `trm/datasets/<name>/online.py`.

The module is separate from `dataset.py` so that training does not depend on rules, generators and drawings.
"""

import importlib
import importlib.util

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import AugmentExamples


def get_augmentation(meta: DatasetMeta) -> AugmentExamples | None:
    """The augmentation of examples of the dataset `meta.name`; None if it defines none."""
    module = f"trm.datasets.{meta.name}.online"
    if importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module).augment_examples
