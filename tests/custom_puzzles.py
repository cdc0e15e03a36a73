"""Fixtures with custom puzzles."""

from pathlib import Path

import numpy as np

from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import Split, read_split
from trm.data.protocol import DatasetPlan
from trm.datasets.augment import augment
from trm.datasets.custom import dataset as custom

ALL = ["dihedral", "permute_symbols", "translate"]
NONE = AugmentParams(num_aug=0, validation_groups=0, seed=0)


def settings_of(file: str | Path, **changes: object) -> custom.Settings:
    """Section `data` with `changes`."""
    values = {
        "name": "custom",
        "source": {"type": "path", "file": str(file), "sha256": None},
        "alphabet": None,
        "height": None,
        "width": None,
        "test_groups": 2,
        "symmetries": [],
        "fixed_symbols": [],
        "allow_leakage": False,
        "seed": 0,
    }
    return parse(custom.Settings, values | changes, "params.yaml")


def meta_of(height: int, width: int, symbols: str, symmetries: list[str], fixed: str = "") -> DatasetMeta:
    """Metadata of custom puzzles."""
    return DatasetMeta(
        name="custom",
        height=height,
        width=width,
        vocabulary=("pad", *symbols),
        num_identifiers=1,
        symmetries=tuple(symmetries),
        fixed_symbols=tuple(fixed),
    )


def generate_dataset(data: custom.Settings, folder: Path, params: AugmentParams = NONE) -> dict[str, Split]:
    """Generate the dataset in `folder`; return its splits."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    custom.fetch(data, raw)
    augment(data, params, raw, folder, "key")
    names = ["train", "validation", "test"] if params.validation_groups else ["train", "test"]
    return {name: read_split(folder / name) for name in names}


def plan_dataset(data: custom.Settings, folder: Path, params: AugmentParams = NONE) -> DatasetPlan:
    """The plan of the dataset."""
    folder.mkdir()
    custom.fetch(data, folder)
    return custom.prepare(data, params, folder)


def crop(canvas: np.ndarray) -> np.ndarray:
    """The part of a canvas that contains a grid."""
    rows, columns = np.nonzero(canvas)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
