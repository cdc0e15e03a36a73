"""Sources of raw files: local paths, http(s) URLs and Hugging Face datasets, verified by SHA-256."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trm.config.base import Natural, Positive, Section, Sha256
from trm.utils.errors import UserError
from trm.utils.paths import file_digest, local_path

Url = Annotated[str, Field(pattern=r"^https?://")]
SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, SplitName] = ("train", "test")


class CsvSource(Section):
    """A training file and a test file in CSV, and filters of their rows."""

    train: str
    """Path, URL or file name of the training puzzles."""
    test: str
    """Path, URL or file name of the test puzzles."""
    train_sha256: Sha256 | None
    """Expected SHA-256 of the training file; null: not verified."""
    test_sha256: Sha256 | None
    """Expected SHA-256 of the test file; null: not verified."""
    min_rating: int | None
    """Drop rows with a lower rating from both files; null: keep all."""
    subsample: Positive | None
    """Number of training rows, drawn with `seed`; null: all of them."""
    seed: Natural
    """Seed of the subsample."""


class PathSource(CsvSource):
    """Local CSV files with the columns source, question, answer and rating."""

    on_this_machine = True

    type: Literal["path"]
    """Local files."""


class UrlSource(CsvSource):
    """CSV files at http(s) URLs; interrupted downloads resume."""

    type: Literal["url"]
    """Download over http(s)."""
    train: Url
    """URL of the training puzzles."""
    test: Url
    """URL of the test puzzles."""


class HuggingFaceSource(CsvSource):
    """CSV files of a dataset on the Hugging Face Hub, cached by huggingface_hub."""

    type: Literal["huggingface"]
    """Download from the Hugging Face Hub."""
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Dataset repository, as owner/name."""
    revision: str
    """Branch, tag or commit; only a commit is immutable."""


FileSource = PathSource | UrlSource | HuggingFaceSource


def copy_source(source: FileSource, split: SplitName, target: Path) -> None:
    """Copy the source's file of `split` to `target` and verify its SHA-256. Raises `UserError` or `DataError`."""
    location, sha256 = getattr(source, split), getattr(source, f"{split}_sha256")
    if isinstance(source, UrlSource):
        download_file(location, target, sha256)
    elif isinstance(source, HuggingFaceSource):
        copy_verified(_from_hugging_face(source, split), target, sha256, f"data.source.{split}")
    else:
        copy_verified(readable_file(location, f"data.source.{split}"), target, sha256, f"data.source.{split}")


def source_digests(source: FileSource) -> dict[str, str]:
    """The SHA-256 of the source files known before `fetch`: computed for local files, else those in the settings."""
    if isinstance(source, PathSource):
        return {f"{s}_sha256": file_digest(readable_file(getattr(source, s), f"data.source.{s}")) for s in SPLITS}
    digests = {f"{split}_sha256": getattr(source, f"{split}_sha256") for split in SPLITS}
    return {key: digest for key, digest in digests.items() if digest is not None}


def download_file(url: str, target: Path, sha256: str | None) -> None:
    """Download `url` to `target`; see `trm.data.download.download`."""
    from trm.data.download import download

    download(url, target, sha256)


def readable_file(location: str, key: str) -> Path:
    """`location` as a path. Raises `UserError`, naming the setting `key`, if it is not a readable file."""
    try:
        path = local_path(location)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if not path.is_file() or not os.access(path, os.R_OK):
        raise UserError(f"{key}: {path} is not a readable file; correct the path")
    return path


def copy_verified(path: Path, target: Path, sha256: str | None, key: str) -> None:
    """Copy `path` to `target`. Raises `UserError`, naming the setting `key`, if its SHA-256 is not `sha256`."""
    shutil.copyfile(path, target)
    actual = file_digest(target)
    if sha256 is not None and actual != sha256:
        target.unlink()
        raise UserError(f"{key}_sha256: expected {sha256}. {path} has {actual}; correct the file or the sha256")


def _from_hugging_face(source: HuggingFaceSource, split: SplitName) -> Path:
    """The file in the cache of huggingface_hub, downloaded if necessary."""
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
    logging.set_verbosity_error()  # errors are reported below, once
    where = f"data.source: {name} of {source.repo} at {source.revision}"
    try:
        return Path(hf_hub_download(source.repo, name, repo_type="dataset", revision=source.revision))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{where}: no such dataset, or a login is required (HF_TOKEN); correct repo") from None
    except (LocalEntryNotFoundError, httpx.TransportError, RuntimeError) as error:
        # RuntimeError: after a refused connection huggingface_hub 1.16 retries with a closed client.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{where}: Hugging Face cannot be reached ({reason}); check the network, or set type: path"
        ) from None
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: request rejected ({reason}); correct repo, revision or file") from None
