"""Lookup of single questions: `generate_question` in the optional module `trm/datasets/<name>/example.py`.

The module is separate from `dataset.py` because no stage needs it.
"""

import importlib
import importlib.util
from collections.abc import Callable

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Grid
from trm.datasets.registry import dataset_names

GenerateQuestion = Callable[[DatasetMeta, int], Grid]
"""The question of a seed, uint8 [h, w]: (meta, seed from 0) -> question."""


def get_generator(meta: DatasetMeta) -> GenerateQuestion | None:
    """The generator of questions of the dataset `meta.name`; None if it defines none."""
    module = f"trm.datasets.{meta.name}.example"
    if meta.name not in dataset_names() or importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module).generate_question
