"""Finds the drawing of a dataset: `make_drawing` in `trm/datasets/<name>/drawing.py`, if there is such a module."""

import importlib
import importlib.util

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing, plain_drawing
from trm.datasets.registry import dataset_names


def get_drawing(meta: DatasetMeta) -> Drawing:
    """The drawing of the dataset, or the plain one."""
    module = f"trm.datasets.{meta.name}.drawing"
    if meta.name not in dataset_names() or importlib.util.find_spec(module) is None:
        return plain_drawing(meta)
    return importlib.import_module(module).make_drawing(meta)
