"""Artifacts in S3. An artifact is complete or absent for every reader, also with concurrent writers and after crashes.

`s3://<root>/<stage>/<content key>/` contains

    manifest.json          the artifact exists if and only if this object exists
    <version>/<file>       the files; `version` is the SHA-256 of the manifest
    timing.json            times and hosts, which are not part of the compared content

The manifest is written last, with a conditional put: the first manifest stays. Writers with different content use
different versions and never overwrite each other's files. Writers with equal content write equal objects. A writer that
finds a manifest deletes the files of all other versions.

This module does not use boto3's transfer manager. A transfer verifies the SHA-256 of a file in the same read that
computes the CRC32 of its parts, survives an outage of minutes, resumes a download within a part, and stops at once when
it is cancelled. tests/storage and tests/integration/test_s3.py inject these faults.
"""

import hashlib
import json
import re
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trm.storage.artifacts import MANIFEST, json_bytes, parse_manifest, staged
from trm.storage.artifacts import read_manifest as read_local_manifest
from trm.storage.s3_chunks import BLOCK, FileChunk, OnBytes
from trm.storage.s3_client import ConflictError, NotFoundError, Store
from trm.storage.s3_threads import map_ordered, run_in_background
from trm.utils.errors import DataError, InternalError, UserError
from trm.utils.progress import progress

UPLOAD_PART_SIZE, DOWNLOAD_PART_SIZE = 16 << 20, 32 << 20
"""Bytes per request; larger files are split. A failed upload of a part starts again, a failed download resumes, so its
parts may be larger.
"""
MAX_UPLOAD_RESTARTS = 5
"""Maximum number of times that an upload starts again because the server lost parts of it."""


def artifact_uri(root: str, stage: str, key: str) -> str:
    """The URI of the artifact that `stage` publishes under the content key `key`.

    root: `s3://<bucket>/<folder>` without a trailing slash, or a placeholder of Kubeflow.
    """
    return f"{root}/{stage}/{key}"


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest of the artifact at `uri`, or None if it does not exist."""
    return manifest_in(Store(uri))


def manifest_in(store: Store) -> dict[str, Any] | None:
    """The manifest of the artifact in `store`, or None if it does not exist."""
    found = _published(store)
    return None if found is None else _parsed(found, store.uri)


def put_json(uri: str, value: Mapping[str, Any]) -> None:
    """Write a small JSON object; an existing one is replaced."""
    folder, _, name = uri.rpartition("/")
    Store(folder).put(name, json_bytes(value))


def get_json(uri: str) -> dict[str, Any] | None:
    """The JSON object at `uri`, or None if it does not exist."""
    folder, _, name = uri.rpartition("/")
    try:
        found = Store(folder).get(name)
    except NotFoundError:
        return None
    try:
        return dict(json.loads(found))
    except (ValueError, TypeError):
        raise DataError(f"{uri}: not a JSON object; delete it") from None


def publish(folder: Path, uri: str, similar: str | None = None) -> dict[str, Any]:
    """Upload the artifact `folder` unless `uri` contains one. Returns the published manifest.

    similar: the URI of an artifact in the same bucket; its files with equal digests are copied on the server.
    An interrupted upload resumes with the missing files. Raises `DataError` if a file differs from the manifest,
    `UserError` if the server rejects a request, `InternalError` if it cannot be reached.
    """
    read_local_manifest(folder)
    own = (folder / MANIFEST).read_bytes()
    store = Store(uri)
    published = _published(store)
    if published is None:
        store.require_condition("IfNoneMatch")  # before the upload, which may take long
        files = _parsed(own, str(folder))["files"]
        if similar is not None:
            _copy_equal(store, files, _version(own), Store(similar))
        _upload(store, folder, files, _version(own))
        published = _publish_manifest(store, own)
    _delete_stale(store, _version(published))
    return _parsed(published, uri)


def download(uri: str, folder: Path) -> dict[str, Any]:
    """Download the artifact at `uri` to `folder`, completely or not at all. Returns its manifest.

    Raises `DataError` if it does not exist or is corrupt, `UserError` if the server rejects a request or the disk is
    full, `InternalError` if the server cannot be reached.
    """
    store = Store(uri)
    found = _published(store)
    if found is None:
        raise DataError(f"{uri}: contains no artifact; correct the URI, or run the stage that writes it")
    manifest = _parsed(found, uri)
    with staged(folder) as staging:
        _download(store, staging, manifest["files"], _version(found))
        (staging / MANIFEST).write_bytes(found)
    return manifest


def read_file(uri: str, name: str) -> bytes:
    """Read one small file of the artifact at `uri`. Raises `DataError` if it does not exist or is corrupt."""
    store = Store(uri)
    found = _published(store)
    files = {} if found is None else _parsed(found, uri)["files"]
    if found is None or name not in files:
        raise DataError(f"{uri}: contains no {name}; give an artifact of the stage that writes it")
    try:
        data = store.get(f"{_version(found)}/{name}")
    except NotFoundError:
        raise _broken(store, name, "is missing") from None
    if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
        raise _broken(store, name, "is corrupt: its SHA-256 differs from the manifest")
    return data


def published_names(uri: str) -> list[str]:
    """The names of the artifacts directly below `uri`, sorted."""
    names = (re.fullmatch(rf"([^/]+)/{MANIFEST}", name) for name in Store(uri).sizes(""))
    return sorted(match[1] for match in names if match)


def artifacts_below(uri: str) -> list[str]:
    """The URIs of all artifacts at or below `uri`, sorted."""
    names = (re.fullmatch(rf"((?:.+/)?){MANIFEST}", name) for name in Store(uri).sizes(""))
    return sorted(f"{uri}/{match[1]}".rstrip("/") for match in names if match)


def verify(uri: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Verify the digests of the artifact at `uri`; returns its manifest and what is damaged.

    The manifest is None if the artifact does not exist. Each file is downloaded to a temporary folder. Raises
    `DataError` for an invalid manifest.
    """
    store = Store(uri)
    found = _published(store)
    if found is None:
        return None, []
    manifest, problems = _parsed(found, uri), list[str]()
    for name, entry in manifest["files"].items():
        with TemporaryDirectory() as folder:
            try:
                _download(store, Path(folder), {name: entry}, _version(found))
            except DataError as error:
                problems.append(str(error))
    return manifest, problems


def remove(uri: str) -> None:
    """Delete the artifact at `uri`. The manifest is deleted first, so that the artifact is absent from then on."""
    remove_from(Store(uri))


def remove_from(store: Store) -> None:
    """Delete the artifact in `store`, as `remove` does."""
    for name in sorted(store.sizes(""), key=lambda name: name != MANIFEST):
        store.delete(name)


def _version(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


def _published(store: Store) -> bytes | None:
    try:
        return store.get(MANIFEST)
    except NotFoundError:
        return None


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Parse a manifest. Its file names must stay inside the folder: a bucket may have other writers."""
    try:
        return parse_manifest(text)
    except ValueError:
        raise DataError(f"{where}: {MANIFEST} is invalid; delete it and run the stage again") from None


def _publish_manifest(store: Store, own: bytes) -> bytes:
    """Write the manifest unless one exists. Returns the published one.

    A retry is rejected if the first put succeeded and its response was lost, so the result is what can be read.
    """
    while True:
        try:
            store.put_if_absent(MANIFEST, own)
            return own
        except ConflictError:
            winner = _published(store)
            if winner is not None:
                return winner


def _delete_stale(store: Store, version: str) -> None:
    """Delete unreadable objects: versions other than the published one, and incomplete uploads."""
    try:
        for name in store.sizes(""):
            folder = name.partition("/")[0]
            if folder != version and re.fullmatch("[0-9a-f]{64}", folder):
                store.delete(name)
        for upload, name in store.uploads().items():
            _abort(store, name, upload)
    except (
        UserError,
        InternalError,
    ) as error:  # the artifact is published; some credentials allow writes but not deletes
        print(f"{store.uri}: published, but stale objects could not be deleted ({error})", file=sys.stderr)


def _abort(store: Store, name: str, upload: str) -> None:
    with suppress(NotFoundError):  # another writer aborted it
        store.abort(name, upload)


def _copy_equal(store: Store, files: Mapping[str, Any], version: str, source: Store) -> None:
    """Copy the files that the artifact at `source` also has. What cannot be copied is uploaded afterwards."""
    found = _published(source)
    if found is None:
        return
    # Servers refuse to copy objects of more than 5 GB, and some credentials may not.
    with suppress(NotFoundError, UserError, DataError):
        others = _parsed(found, source.uri)["files"]
        for name in _large_first(files):
            if files[name] == others.get(name):
                store.copy(f"{version}/{name}", f"{source.key}/{_version(found)}/{name}")


def _upload(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    """Upload the missing files, until all exist or another writer has published."""
    for _ in range(MAX_UPLOAD_RESTARTS):
        there = store.sizes(f"{version}/")
        missing = [name for name in _large_first(files) if there.get(f"{version}/{name}") != files[name]["bytes"]]
        try:
            if missing:
                _upload_files(store, folder, {name: files[name] for name in missing}, version)
            return
        except NotFoundError:  # deleted by the writer that published, or lost by the server
            if _published(store) is not None:
                return
    raise InternalError(
        f"{store.uri}: the server lost parts of the upload {MAX_UPLOAD_RESTARTS} times; repair it, then run it again"
    )


def _upload_files(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    started: dict[str, str] = {}

    def uploads() -> Iterator[tuple[str, FileChunk, int, OnBytes, dict[str, Any]]]:
        for name, facts in files.items():
            target, chunks, digest = (
                f"{version}/{name}",
                _chunks(folder / name, facts, UPLOAD_PART_SIZE),
                hashlib.sha256(),
            )
            if len(chunks) > 1:
                started[target] = store.begin(target)
            for number, chunk in enumerate(chunks, 1):
                crc = 0
                for block in _blocks(chunk):
                    digest.update(block)
                    crc = zlib.crc32(block, crc)
                if chunk is chunks[-1] and digest.hexdigest() != facts["sha256"]:
                    raise DataError(f"{chunk.path}: differs from {MANIFEST}; run the stage again")
                part = {"UploadId": started[target], "PartNumber": number} if target in started else {}
                yield target, chunk, crc, on_bytes, part

    try:
        with (
            _progress(f"upload {_short(store.uri)}", files) as on_bytes,
            closing(map_ordered(store, store.send, uploads())) as sent,
        ):
            for name, facts in files.items():
                parts, target = (
                    list(islice(sent, len(_chunks(folder / name, facts, UPLOAD_PART_SIZE)))),
                    f"{version}/{name}",
                )
                if target in started:
                    store.complete(target, started[target], parts, facts["bytes"])
                    del started[target]
    except BaseException:
        run_in_background(lambda: [_abort(store, *unfinished) for unfinished in started.items()])
        raise


def _download(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    names = _large_first(files)

    def downloads() -> Iterator[tuple[str, FileChunk, OnBytes]]:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
            for chunk in _chunks(folder / name, files[name], DOWNLOAD_PART_SIZE):
                yield f"{version}/{name}", chunk, on_bytes

    with (
        _progress(f"download {_short(store.uri)}", files) as on_bytes,
        closing(map_ordered(store, store.load, downloads())) as downloaded,
    ):
        for name in names:
            digest = hashlib.sha256()
            for chunk in _chunks(folder / name, files[name], DOWNLOAD_PART_SIZE):
                try:
                    next(downloaded)
                except NotFoundError:
                    raise _broken(store, name, "is missing or truncated") from None
                for block in _blocks(chunk):
                    digest.update(block)
            if digest.hexdigest() != files[name]["sha256"]:
                raise _broken(store, name, "is corrupt: its SHA-256 differs from the manifest")


def _broken(store: Store, name: str, problem: str) -> DataError:
    return DataError(f"{store.uri}: {name} {problem}; delete {store.uri} and run its stage again")


def _blocks(chunk: FileChunk) -> Iterator[memoryview]:
    """The blocks of a chunk. All of them use the same buffer."""
    buffer = memoryview(bytearray(BLOCK))
    try:
        with chunk.path.open("rb", buffering=0) as file:
            file.seek(chunk.start)
            for start in range(0, chunk.size, BLOCK):
                yield buffer[: file.readinto(buffer[: chunk.size - start])]
    except OSError as error:
        raise DataError(f"{chunk.path}: cannot be read ({error.strerror}); run the stage again") from None


@contextmanager
def _progress(description: str, files: Mapping[str, Any]) -> Iterator[OnBytes]:
    """A progress bar in bytes that several threads may update."""
    lock = threading.Lock()
    with progress(description, sum(facts["bytes"] for facts in files.values()), unit="bytes") as shown:

        def on_bytes(count: int) -> None:
            with lock:
                shown.advance(count)

        yield on_bytes


def _large_first(files: Mapping[str, Any]) -> list[str]:
    """File names by decreasing size, which keeps most connections busy until the end."""
    return sorted(files, key=lambda name: (-files[name]["bytes"], name))


def _chunks(path: Path, facts: Mapping[str, Any], part: int) -> list[FileChunk]:
    """The chunks of a file; an empty file has one empty chunk."""
    size = facts["bytes"]
    return [FileChunk(path, start, min(part, size - start)) for start in range(0, max(size, 1), part)]


def _short(uri: str) -> str:
    """A URI for a progress line, with twelve digits of its key."""
    return re.sub("([0-9a-f]{12})[0-9a-f]{52}$", r"\1", uri)
