"""The local cache of artifacts in S3: `$TRM_CACHE_DIR/artifacts/<stage>/<key>` caches `s3://<root>/<stage>/<key>`.

Stages that write to S3 write to this folder first, so that a result is not computed again if its upload fails.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from trm.utils.errors import UserError
from trm.utils.paths import cache_folder, is_s3_uri

_ARTIFACT = re.compile(r"(?P<uri>s3://[^/]+/(?:.*/)?(?P<stage>[a-z]+)/(?P<key>[0-9a-f]{64}))/?")


def parse_artifact_uri(location: str) -> str:
    """Check that `location` is the URI `s3://<root>/<stage>/<key>` of an artifact. Raises `UserError`."""
    match = _ARTIFACT.fullmatch(location)
    if not match:
        raise UserError(
            f"{location}: not the URI of an artifact; give s3://<root>/<stage>/<key>, as printed by the stages"
        )
    return match["uri"]


def output_uri(location: str, stage: str, key: str) -> str:
    """The URI of the output of `stage`: below the root `location`, or `location` itself, which must have this key.

    Raises `UserError` if `location` has another stage or key.
    """
    match = _ARTIFACT.fullmatch(location)
    if not match:
        from trm.storage.s3 import artifact_uri

        return artifact_uri(location.rstrip("/"), stage, key)
    if (match["stage"], match["key"]) != (stage, key):
        raise UserError(
            f"{match['uri']}: this request has the key {stage}/{key}: params, code or libraries differ from those of "
            "the URI; build and push the image again, or give the bare root"
        )
    return match["uri"]


def folder_of(uri: str) -> Path:
    """The local folder of the artifact at `uri`."""
    stage, key = uri.split("/")[-2:]
    return cache_folder() / "artifacts" / stage / key


def local_copy(location: str | Path) -> Path:
    """The local path of an artifact: a path unchanged, a URI downloaded unless the cache holds the same version.

    `hf://owner/name` is a model on the Hugging Face Hub.
    """
    from trm.storage import s3
    from trm.storage.artifacts import MANIFEST, read_manifest
    from trm.storage.hub import download_model, is_hub_uri

    if is_hub_uri(location):
        return download_model(str(location))
    if not is_s3_uri(location):
        return Path(location)
    uri = parse_artifact_uri(str(location))
    folder = folder_of(uri)
    with locked(folder):
        if not (folder / MANIFEST).is_file() or read_manifest(folder) != s3.read_manifest(uri):
            s3.download(uri, folder)
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder: one process at a time computes or downloads it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield
