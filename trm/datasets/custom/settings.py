"""Section `data` of `params.yaml` for custom puzzles."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from trm.config.base import Natural, Positive, Section, Sha256, integral_to_int
from trm.config.data import DataSection
from trm.data.sources import Url
from trm.datasets.custom.files import MAX_SIDE, MAX_SYMBOLS, SUFFIXES


def _file_with_suffix(file: str) -> str:
    return _check_suffix(file, file)


def _url_with_suffix(url: str) -> str:
    return _check_suffix(url, urlsplit(url).path)


def _check_suffix(file: str, path: str) -> str:
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"must end in {' or '.join(SUFFIXES)}. Got {file}")
    return file


def _symbols(value: object) -> object:
    """The symbols of a string or list as a tuple, integers as strings; other values are returned unchanged for
    validation.
    """
    if not isinstance(value, str | list | tuple):
        return value
    symbols = tuple(str(symbol) if type(symbol) is int else symbol for symbol in value)
    for symbol in symbols:
        if not isinstance(symbol, str) or not re.fullmatch(r".|-?[0-9]+", symbol, re.DOTALL):
            raise ValueError(f"a symbol must be one character or an integer. Got {symbol!r}")
    if len(set(symbols)) < len(symbols):
        raise ValueError(f"must not contain a symbol twice. Got {value!r}")
    if len(symbols) > MAX_SYMBOLS:
        raise ValueError(f"must have at most {MAX_SYMBOLS} symbols. Got {len(symbols)}")
    return symbols


class PathSource(Section):
    """A local file."""

    on_this_machine = True

    type: Literal["path"]
    """Local file."""
    file: Annotated[str, AfterValidator(_file_with_suffix)]
    """Path of the file, ending in .csv or .jsonl; see `trm.datasets.custom.files`."""
    sha256: Sha256 | None
    """Expected SHA-256; null: not verified."""


class UrlSource(Section):
    """A file at an http(s) URL."""

    type: Literal["url"]
    """Download over http(s)."""
    file: Annotated[Url, AfterValidator(_url_with_suffix)]
    """URL of the file, whose path ends in .csv or .jsonl; see `trm.datasets.custom.files`."""
    sha256: Sha256 | None
    """Expected SHA-256; null: not verified."""


Side = Annotated[int, Field(ge=1, le=MAX_SIDE), BeforeValidator(integral_to_int)]
Symbols = Annotated[tuple[str, ...], BeforeValidator(_symbols)]


class Settings(DataSection):
    """Section `data` for custom puzzles."""

    source: Annotated[PathSource | UrlSource, Field(discriminator="type")]
    """Origin of the puzzles."""
    alphabet: Annotated[Symbols, Field(min_length=1)] | None
    """The symbols in the order of their tokens, as a string or a list; null: the symbols of the file, sorted."""
    height: Side | None
    """Height of the canvas; smaller grids are in its upper left corner. Null: the largest height in the file."""
    width: Side | None
    """Width of the canvas; null: the largest width in the file."""
    test_groups: Positive
    """Number of groups in the test split, drawn with `seed`."""
    symmetries: Annotated[tuple[Literal["dihedral", "permute_symbols", "translate"], ...], Field(strict=False)]
    """Transformations that map puzzles to puzzles. `dihedral`: rotations and reflections (on a canvas that is not
    square, those that keep its shape). `permute_symbols`: permutations of the symbols that are not fixed.
    `translate`: any position on the canvas.
    """
    fixed_symbols: Symbols
    """Symbols, as a string or a list, that `permute_symbols` does not change."""
    allow_leakage: bool
    """False: groups with inputs that are equivalent under the symmetries are in the same split."""
    seed: Natural
    """Seed of the test groups."""

    def max_augmentations(self) -> int | None:
        """1 without symmetries, else unknown."""
        return None if self.symmetries else 1
