"""Registry of the datasets: the subpackages of `trm.datasets`, each with a module `dataset`."""

import importlib
import pkgutil
from types import ModuleType
from typing import cast

import trm.datasets
from trm.config.data import DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Dataset, Grid
from trm.utils.errors import ParamsError


def dataset_names() -> list[str]:
    """The names of all datasets, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(trm.datasets.__path__) if module.ispkg)


def dataset_module(name: object) -> ModuleType:
    """Import and return `trm.datasets.<name>.dataset`. Raises `ParamsError` for an unknown name."""
    known = dataset_names()
    if name not in known:
        # A model outlives the module of its dataset.
        remedy = "; restore its folder in trm/datasets if this was a dataset in code"
        raise ParamsError(f"data.name must be one of {', '.join(known)}. Got {name!r}{remedy}")
    module = importlib.import_module(f"trm.datasets.{name}.dataset")
    if not hasattr(module, "Settings"):
        raise ParamsError(f"data.name {name}: {module.__name__} has no class Settings; see trm/data/protocol.py")
    return module


def get_dataset(name: str) -> Dataset:
    """The dataset of that name. Raises `ParamsError` for an unknown name."""
    return cast(Dataset, dataset_module(name))


def expected_meta(data: DataSection) -> DatasetMeta | None:
    """The `DatasetMeta` implied by the settings, or None if it is only known after `fetch`.

    Datasets may define `expected_meta(data)`. Its number of identifiers is 1 if the actual number is not known yet.
    """
    function = getattr(dataset_module(data.name), "expected_meta", None)
    return function(data) if function else None


def check_question(meta: DatasetMeta, grid: Grid) -> str | None:
    """A note about a question without padding, uint8 [h, w]: a predicate such as "has several solutions", or None.

    Datasets with rules may define `check_question(meta, grid)`. Raises `DataError`, also as a predicate, for a question
    that no answer can solve, with the cells that contradict each other.
    """
    function = getattr(get_dataset(meta.name), "check_question", None)
    return function(meta, grid) if function else None
