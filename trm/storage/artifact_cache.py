"""What lies in S3, on this disk: `$TRM_CACHE_DIR/artifacts/<stage>/<key>` is the copy of `s3://<root>/<stage>/<key>`.

A stage that writes to S3 writes into this folder first, so that a result whose upload failed is not computed again.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from trm.utils.errors import UserError
from trm.utils.paths import cache_folder

if TYPE_CHECKING:
    import torch

    from trm.config.dataset_meta import DatasetMeta
    from trm.models.act import TRM

_ARTIFACT = re.compile(r"(?P<uri>s3://[^/]+/(?:.*/)?(?P<stage>[a-z]+)/(?P<key>[0-9a-f]{64}))/?")


def artifact_uri(location: str) -> str:
    """The URI `s3://<root>/<stage>/<key>` of an artifact. Raises `UserError`."""
    match = _ARTIFACT.fullmatch(location)
    if not match:
        raise UserError(f"{location}: not an artifact's address; write s3://<root>/<stage>/<key>, as stages print it")
    return match["uri"]


def output_uri(location: str, stage: str, key: str) -> str:
    """Where the output of `stage` goes: below the root that `location` is, or at `location`, which must have this key.

    Raises `UserError` where `location` names another stage or key.
    """
    match = _ARTIFACT.fullmatch(location)
    if not match:
        return f"{location.rstrip('/')}/{stage}/{key}"
    if (match["stage"], match["key"]) != (stage, key):
        raise UserError(
            f"{match['uri']}: this request has the key {stage}/{key}, so the params, the code or the libraries here "
            "are not those that the address was made for; make and push the image again, or give the bare root"
        )
    return match["uri"]


def folder_of(uri: str) -> Path:
    """The folder on this disk for the artifact at `uri`."""
    stage, key = uri.split("/")[-2:]
    return cache_folder() / "artifacts" / stage / key


def local_copy(location: str | Path) -> Path:
    """A path as it is; of a URI its folder here, brought from S3 unless the same version is there already."""
    from trm.storage import s3
    from trm.storage.artifacts import MANIFEST, read_manifest

    if not s3.is_uri(location):
        return Path(location)
    uri = artifact_uri(str(location))
    folder = folder_of(uri)
    with locked(folder):
        if not (folder / MANIFEST).is_file() or read_manifest(folder) != s3.read_manifest(uri):
            s3.download(uri, folder)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time makes or brings the folder; the others find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield


def load_checkpoint(
    location: str | Path, weights: Literal["ema", "raw"] = "ema", dtype: "torch.dtype | None" = None
) -> "tuple[TRM, DatasetMeta]":
    """The model at `location` (a file, a model folder or its s3:// URI) in eval mode on the CPU, and its meta.

    It computes in `dtype`, by default float32. Raises `DataError` for a missing or broken file, `UserError` where S3
    refuses.
    """
    import torch

    from trm.training.checkpoint import load_checkpoint

    return load_checkpoint(local_copy(location), weights, dtype or torch.float32)
