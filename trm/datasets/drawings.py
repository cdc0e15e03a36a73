"""Lookup of drawings: `make_drawing` in the optional module `trm/datasets/<name>/drawing.py`."""

import importlib
import importlib.util

from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import Drawing, plain_drawing
from trm.datasets.registry import dataset_names


def get_drawing(meta: DatasetMeta) -> Drawing:
    """The drawing of the dataset `meta.name`; `plain_drawing` if it defines none."""
    module = f"trm.datasets.{meta.name}.drawing"
    if meta.name not in dataset_names() or importlib.util.find_spec(module) is None:
        return plain_drawing(meta)
    return importlib.import_module(module).make_drawing(meta)
