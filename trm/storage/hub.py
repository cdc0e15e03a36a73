"""Models on the Hugging Face Hub: `hf://owner/name`, at a revision `hf://owner/name@revision`.

Downloads are kept in the cache of huggingface_hub (`HF_HOME`). The login is that of huggingface_hub: `HF_TOKEN`, or
`hf auth login`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trm.storage.artifacts import MANIFEST, damages, read_manifest
from trm.utils.errors import DataError, InternalError, UserError
from trm.utils.file_formats import printable

_URI = re.compile(r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?/?", re.ASCII)
MODEL_FILES = ("checkpoint.safetensors", MANIFEST)
PUBLISHED_FILES = ("all_config.yaml", "step_*", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin")
"""Patterns of the files of other repositories: published checkpoints with their settings. Pickles are not loaded."""
REMEDY = "correct the name, or log in with a token that may access it (HF_TOKEN)"


def is_hub_uri(location: str | Path) -> bool:
    """Whether `location` is an address of the Hub."""
    return str(location).startswith("hf://")


def parse_hub_uri(uri: str) -> tuple[str, str | None]:
    """Repository and revision. Raises `UserError`."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError(f"{uri}: not a model on the Hub; write it as hf://owner/name or hf://owner/name@revision")
    return match["repo"], match["revision"]


def download_model(uri: str) -> Path:
    """The model at `uri` in the local cache, with the digest of every file checked.

    Raises `UserError` if there is no such repository or it cannot be read, `DataError` if it is no model of this
    project or damaged, `InternalError` if the Hub cannot be reached.
    """
    folder = _snapshot(uri, MODEL_FILES)
    if not (folder / MODEL_FILES[0]).is_file():
        raise DataError(f"{uri}: has no {MODEL_FILES[0]}; `trm hub pull` downloads checkpoints of other programs")
    if (folder / MANIFEST).is_file():
        files = read_manifest(folder)["files"]
        for problem in damages(folder, {name: entry for name, entry in files.items() if name in MODEL_FILES}):
            raise DataError(f"{uri}: {problem}; delete its folder in the cache of huggingface_hub")
    return folder


def download_files(uri: str) -> Path:
    """The files of a model or of a published checkpoint at `uri` in the local cache. Raises as `download_model`."""
    return _snapshot(uri, (*MODEL_FILES, *PUBLISHED_FILES, "README.md", "metrics.json", "*.tsv"))


def upload_model(folder: Path, repo: str, private: bool) -> str:
    """Upload the files of `folder` in one commit, to a repository that is created if necessary; return its URL.

    Raises `UserError` without the right to write, `InternalError` if the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    parse_hub_uri(f"hf://{repo}")
    with _errors(f"hf://{repo}"):
        api = HfApi(library_name="trm")
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a model with trm hub push")
    return str(url)


def _snapshot(uri: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    repo, revision = parse_hub_uri(uri)
    with _errors(uri):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    """Convert the errors of huggingface_hub."""
    import httpx
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.set_verbosity_error()  # errors are reported below, once
    disable_progress_bars()
    try:
        yield
    except (RepositoryNotFoundError, HFValidationError, LocalTokenNotFoundError):
        raise UserError(f"{uri}: no such repository, or no access; {REMEDY}") from None
    except (LocalEntryNotFoundError, httpx.TransportError, RuntimeError) as error:
        # RuntimeError: after a refused connection huggingface_hub 1.16 retries with a closed client.
        reason = printable(" ".join(str(error).split())[:200])
        raise InternalError(f"{uri}: the Hub cannot be reached ({reason}); check the network") from None
    except HfHubHTTPError as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise UserError(f"{uri}: request rejected ({reason}); {REMEDY}") from None
