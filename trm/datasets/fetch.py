"""The stage `fetch`: the raw puzzles, generated, copied or downloaded, every one of them checked."""

from pathlib import Path

from trm.config.data import DataSection
from trm.datasets.registry import get_dataset


def fetch(data: DataSection, out: Path, key: str) -> dict[str, object]:
    """Write the raw files of the data's kind to `out` (an empty folder); return sha256 and numbers of puzzles.

    Raises `UserError` or `DataError` with key or file, and remedy. `key` is part of every stage's call; the raw files
    do not depend on it.
    """
    del key
    return get_dataset(data.name).fetch(data, out)
