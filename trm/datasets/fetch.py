"""Stage `fetch`: generates, copies or downloads the raw puzzles and checks each of them."""

from pathlib import Path

from trm.config.data import DataSection
from trm.datasets.registry import get_dataset


def fetch(data: DataSection, out: Path, key: str) -> dict[str, object]:
    """Write the raw files of the dataset to the empty folder `out`; return their digests and numbers of puzzles.

    `key` is part of the signature of all stages and is ignored. Raises `UserError` or `DataError` with the setting or
    file, and the remedy.
    """
    del key
    return get_dataset(data.name).fetch(data, out)
