"""Where raw files come from: this machine, an http(s) address, or a data set on Hugging Face; all checked by sha256."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trm.config.base import Natural, Positive
from trm.utils.errors import UserError
from trm.utils.paths import file_digest
from trm.config.base import Section, Sha256

Url = Annotated[str, Field(pattern=r"^https?://")]
TableSplit = Literal["train", "test"]
SPLITS: tuple[TableSplit, TableSplit] = ("train", "test")


class TableSource(Section):
    """A file for training and one for testing, and which of their rows to take."""

    train: str
    test: str
    train_sha256: Sha256 | None
    test_sha256: Sha256 | None
    min_rating: int | None
    """Rows of a lesser rating are left out, of both files; null: none is."""
    subsample: Positive | None
    """So many rows of the training file, drawn by `seed`; null: all of them."""
    seed: Natural


class PathSource(TableSource):
    """CSV files on this machine, columns source,question,answer,rating."""

    on_this_machine = True

    type: Literal["path"]


class UrlSource(TableSource):
    """The same CSV files behind http(s) addresses; a download that breaks off is taken up again."""

    type: Literal["url"]
    train: Url
    test: Url


class HuggingFaceSource(TableSource):
    """The same CSV files in a data set on Hugging Face; huggingface_hub brings them and keeps them in its cache."""

    type: Literal["huggingface"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str
    """A branch, a tag or, to be sure of the bytes, a commit."""


FileSource = PathSource | UrlSource | HuggingFaceSource


def bring(source: FileSource, split: TableSplit, target: Path) -> None:
    """Put the source's file of `split` at `target` and check its sha256. Raises `UserError` or `DataError`."""
    place, sha256 = getattr(source, split), getattr(source, f"{split}_sha256")
    if isinstance(source, UrlSource):
        download_url(place, target, sha256)
    elif isinstance(source, HuggingFaceSource):
        copy_checked(_from_hugging_face(source, split), target, sha256, f"data.source.{split}")
    else:
        copy_checked(existing(place, f"data.source.{split}"), target, sha256, f"data.source.{split}")


def known_digests(source: FileSource) -> dict[str, str]:
    """The sha256 known before anything runs: of the files of a `path` source, else those that the settings give."""
    if isinstance(source, PathSource):
        return {f"{s}_sha256": file_digest(existing(getattr(source, s), f"data.source.{s}")) for s in SPLITS}
    given = {f"{split}_sha256": getattr(source, f"{split}_sha256") for split in SPLITS}
    return {key: digest for key, digest in given.items() if digest is not None}


def download_url(url: str, target: Path, sha256: str | None) -> None:
    """Download `url` to `target`."""
    from trm.data.download import download

    download(url, target, sha256)


def existing(place: str, key: str) -> Path:
    """The file `place`. Raises `UserError`, naming the setting `key`, where it cannot be read."""
    path = Path(place)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"{key}: {path} is not a file that can be read; correct the path")
    return path


def copy_checked(path: Path, target: Path, sha256: str | None, key: str) -> None:
    """Copy `path` to `target`. Raises `UserError`, naming the setting `key`, where its sha256 is another."""
    shutil.copyfile(path, target)
    seen = file_digest(target)
    if sha256 is not None and seen != sha256:
        target.unlink()
        raise UserError(f"{key}_sha256: expected {sha256}. {path} has {seen}; correct the file or the sha256")


def _from_hugging_face(source: HuggingFaceSource, split: TableSplit) -> Path:
    """The file in huggingface_hub's cache, brought there where it is not there yet."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import logging

    name = getattr(source, split)
    logging.set_verbosity_error()  # what goes wrong in the end is said once, by us
    where = f"data.source: {name} of {source.repo} at {source.revision}"
    try:
        return Path(hf_hub_download(source.repo, name, repo_type="dataset", revision=source.revision))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{where}: no such data set, or one that wants a login (HF_TOKEN); correct repo") from None
    except (LocalEntryNotFoundError, httpx.TransportError, RuntimeError) as error:
        # RuntimeError: after a refused connection huggingface_hub 1.16 tries again with the client that it has closed.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: Hugging Face cannot be reached ({reason}); try again, or use type: path") from None
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: refused ({reason}); correct repo, revision or file") from None
