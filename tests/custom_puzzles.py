"""Puzzles of a person's custom as tests like to have them."""

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
    """Section `data`, with `changes`."""
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
    """What a data set of such puzzles says of itself."""
    return DatasetMeta(
        name="custom",
        height=height,
        width=width,
        vocabulary=("pad", *symbols),
        num_identifiers=1,
        symmetries=tuple(symmetries),
        fixed_symbols=tuple(fixed),
    )


def made(data: custom.Settings, folder: Path, params: AugmentParams = NONE) -> dict[str, Split]:
    """The splits of the data set, made in `folder`."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    custom.fetch(data, raw)
    augment(data, params, raw, folder, "key")
    names = ["train", "validation", "test"] if params.validation_groups else ["train", "test"]
    return {name: read_split(folder / name) for name in names}


def planned(data: custom.Settings, folder: Path, params: AugmentParams = NONE) -> DatasetPlan:
    """The data set as it is planned."""
    folder.mkdir()
    custom.fetch(data, folder)
    return custom.prepare(data, params, folder)


def cut(canvas: np.ndarray) -> np.ndarray:
    """The part of a canvas that holds a grid."""
    rows, columns = np.nonzero(canvas)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
