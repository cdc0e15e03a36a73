"""The stage `fetch`: the raw puzzles, generated, copied or downloaded, as train.csv and test.csv."""

import os
import shutil
from pathlib import Path
from typing import Literal

from trm.config import GenerateSource, PathSource, SudokuData, UrlSource
from trm.data.sudoku_csv import read_puzzles, write_puzzles
from trm.errors import DataError, UserError
from trm.files import file_digest

Split = Literal["train", "test"]
SPLITS: tuple[Split, Split] = ("train", "test")


def fetch(data: SudokuData, out: Path, key: str) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv (every row checked) and return their sha256 and numbers of puzzles.

    `out` is an empty folder. Files of a `path` or `url` source keep their bytes. Raises `UserError` or `DataError`
    with key or file, and remedy. `key` is part of every stage's call; the raw files do not depend on it.
    """
    del key
    if isinstance(data.source, GenerateSource):
        _generate(data, data.source, out)
    facts: dict[str, object] = {}
    for split in SPLITS:
        target = out / f"{split}.csv"
        if isinstance(data.source, PathSource):
            _copy(data.source, split, target)
        elif isinstance(data.source, UrlSource):
            from trm.data.download import download

            download(getattr(data.source, split), target, getattr(data.source, f"{split}_sha256"))
        facts[f"{split}_sha256"] = file_digest(target)
        try:
            facts[f"{split}_puzzles"] = len(read_puzzles(target, data.size))
        except DataError as error:
            # The staging folder is about to vanish: name the file that the user can look at.
            raise DataError(str(error).replace(str(target), _origin(data, split, target), 1)) from None
    return facts


def source_digest(data: SudokuData) -> dict[str, str]:
    """The sha256 by which the request is known before anything runs: of the files of a `path` source, those given for
    a `url` source, none for generated puzzles. Raises `UserError` for a missing file.
    """
    if isinstance(data.source, PathSource):
        return {f"{split}_sha256": file_digest(_existing(data.source, split)) for split in SPLITS}
    if isinstance(data.source, UrlSource):
        given = {f"{split}_sha256": getattr(data.source, f"{split}_sha256") for split in SPLITS}
        return {key: digest for key, digest in given.items() if digest is not None}
    return {}


def _generate(data: SudokuData, source: GenerateSource, out: Path) -> None:
    from trm.data.generate import generate_puzzles  # compiles with numba: only when there is something to generate

    count = source.train_puzzles + source.test_puzzles
    puzzles = generate_puzzles(data.size, count, source.clues, source.seed, data.allow_equivalent)
    write_puzzles(out / "train.csv", puzzles.select(slice(source.train_puzzles)))
    write_puzzles(out / "test.csv", puzzles.select(slice(source.train_puzzles, None)))


def _existing(source: PathSource, split: Split) -> Path:
    path = Path(getattr(source, split))
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"data.source.{split}: {path} is not a file that can be read; correct the path")
    return path


def _copy(source: PathSource, split: Split, target: Path) -> None:
    path = _existing(source, split)
    shutil.copyfile(path, target)
    expected, seen = getattr(source, f"{split}_sha256"), file_digest(target)
    if expected is not None and seen != expected:
        target.unlink()
        raise UserError(
            f"data.source.{split}_sha256: expected {expected}. {path} has {seen}; correct the file or the sha256"
        )


def _origin(data: SudokuData, split: Split, target: Path) -> str:
    return str(target) if isinstance(data.source, GenerateSource) else str(getattr(data.source, split))
