"""Artifacts in S3: whole or absent for every reader, whoever writes and whatever is killed.

`s3://<root>/<stage>/<content key>/` holds

    manifest.json          the truth: there is an artifact if and only if it is there
    <version>/<file>       its files; `version` is the sha256 of the manifest's bytes, all 64 digits of it: nobody types
                           them, and nobody then has to think of chance
    timing.json            times and hosts, outside the bytes that are compared

The manifest is written last and only where there is none: the first complete one wins, for good. Two writers with
different bytes never touch each other's files, as these are named after the bytes; two writers with the same bytes
write the same objects. Whoever finds a manifest removes the versions that lost: nobody can win with them any more.
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
from pathlib import Path, PurePosixPath
from typing import Any

from trm.storage.artifacts import MANIFEST, staged
from trm.storage.artifacts import read_manifest as read_local_manifest
from trm.storage.s3_client import BLOCK, GoneError, LostError, Moved, Piece, Store
from trm.storage.s3_threads import in_order, soon
from trm.utils.errors import DataError, InternalError, UserError
from trm.utils.progress import progress

UPLOAD_PART, DOWNLOAD_PART = 16 << 20, 32 << 20
"""Bytes that travel in one request; larger files go in parts. A part whose upload breaks off is sent again, a download
goes on where it was: there fewer requests only save both sides work.
"""
FRESH_STARTS = 5
"""How often an upload is begun again where the server has lost parts of it."""


def is_uri(location: object) -> bool:
    """Whether `location` is an address in S3 and no local path."""
    return isinstance(location, str) and location.startswith("s3://")


def artifact_uri(root: str, stage: str, key: str) -> str:
    """The URI of the artifact that `stage` publishes under the content key `key`.

    root: `s3://<bucket>/<folder>` without a trailing slash, or a placeholder of Kubeflow.
    """
    return f"{root}/{stage}/{key}"


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest of the artifact at `uri`, None where there is none (yet)."""
    found = _published(Store(uri))
    return None if found is None else _parsed(found, uri)


def put_json(uri: str, value: Mapping[str, Any]) -> None:
    """Write a small JSON object, over an earlier one where there is one."""
    folder, _, name = uri.rpartition("/")
    Store(folder).put(name, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def get_json(uri: str) -> dict[str, Any] | None:
    """The JSON object at `uri`, None where there is none."""
    folder, _, name = uri.rpartition("/")
    try:
        found = Store(folder).get(name)
    except GoneError:
        return None
    try:
        return dict(json.loads(found))
    except (ValueError, TypeError):
        raise DataError(f"{uri}: is not a JSON object; delete it") from None


def publish(folder: Path, uri: str) -> dict[str, Any]:
    """Upload the artifact `folder` unless there is one at `uri`; the manifest that is there in the end.

    Raises `DataError` where a file of the folder is not the manifest's, `UserError` where the server refuses,
    `InternalError` where it cannot be reached. An upload that broke off goes on with the files that are missing.
    """
    read_local_manifest(folder)
    own = (folder / MANIFEST).read_bytes()
    store = Store(uri)
    winner = _published(store)
    if winner is None:
        _upload(store, folder, _parsed(own, str(folder))["files"], _version(own))
        winner = _win(store, own)
    _sweep(store, _version(winner))
    return _parsed(winner, uri)


def download(uri: str, folder: Path) -> dict[str, Any]:
    """Download the artifact at `uri` to `folder`, which appears whole or not at all; its manifest.

    Raises `DataError` where there is none or where it is broken, `UserError` where the server refuses or the disk is
    full, `InternalError` where the server cannot be reached.
    """
    store = Store(uri)
    found = _published(store)
    if found is None:
        raise DataError(f"{uri}: holds no artifact (yet); correct the address, or run the stage that writes it")
    manifest = _parsed(found, uri)
    with staged(folder) as staging:
        _download(store, staging, manifest["files"], _version(found))
        (staging / MANIFEST).write_bytes(found)
    return manifest


def read_file(uri: str, name: str) -> bytes:
    """The bytes of one small file of the artifact at `uri`. Raises `DataError` where it is not there or broken."""
    store = Store(uri)
    found = _published(store)
    files = {} if found is None else _parsed(found, uri)["files"]
    if found is None or name not in files:
        raise DataError(f"{uri}: holds no {name}; name an artifact of the stage that writes it")
    try:
        data = store.get(f"{_version(found)}/{name}")
    except GoneError:
        raise _broken(store, name, "is missing") from None
    if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
        raise _broken(store, name, "is broken, its sha256 is not the manifest's")
    return data


def published_below(uri: str) -> list[str]:
    """The names of the artifacts directly below `uri`, sorted."""
    names = (re.fullmatch(rf"([^/]+)/{MANIFEST}", name) for name in Store(uri).sizes(""))
    return sorted(match[1] for match in names if match)


def remove(uri: str) -> None:
    """Delete the artifact at `uri`, its manifest first: what is half deleted is absent."""
    store = Store(uri)
    for name in sorted(store.sizes(""), key=lambda name: name != MANIFEST):
        store.delete(name)


def _version(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


def _published(store: Store) -> bytes | None:
    try:
        return store.get(MANIFEST)
    except GoneError:
        return None


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """The manifest, whose file names must stay inside a folder: others than us may write to a bucket."""
    try:
        manifest = json.loads(text)
        for name, facts in manifest["files"].items():
            path = PurePosixPath(name)
            safe = not path.is_absolute() and ".." not in path.parts and str(path) == name and name != MANIFEST
            if not safe or not re.fullmatch("[0-9a-f]{64}", facts["sha256"]) or int(facts["bytes"]) < 0:
                raise ValueError(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{where}: its {MANIFEST} is not a manifest; delete it and run the stage again") from None
    return manifest


def _win(store: Store, own: bytes) -> bytes:
    """Write the manifest, and return the one that is there. Where the answer to our own was lost and the put was tried
    again, it is refused as ours is there already: what counts is what can be read.
    """
    while True:
        try:
            store.put_new(MANIFEST, own)
            return own
        except LostError:
            winner = _published(store)
            if winner is not None:
                return winner


def _sweep(store: Store, version: str) -> None:
    """Remove what can never be read: other versions than the published one, and files that nobody completed."""
    try:
        for name in store.sizes(""):
            folder = name.partition("/")[0]
            if folder != version and re.fullmatch("[0-9a-f]{64}", folder):
                store.delete(name)
        for upload, name in store.uploads().items():
            _abort(store, name, upload)
    except (UserError, InternalError) as error:  # the artifact is there; some identities may write but not delete
        print(f"{store.uri}: is published, but older tries could not be removed ({error})", file=sys.stderr)


def _abort(store: Store, name: str, upload: str) -> None:
    with suppress(GoneError):  # another one was quicker
        store.abort(name, upload)


def _upload(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    """Bring what is not there yet, until it is there or another writer has published."""
    for _ in range(FRESH_STARTS):
        there = store.sizes(f"{version}/")
        missing = [name for name in _large_first(files) if there.get(f"{version}/{name}") != files[name]["bytes"]]
        try:
            if missing:
                _upload_files(store, folder, {name: files[name] for name in missing}, version)
            return
        except GoneError:  # the winner removed it, or the server lost it
            if _published(store) is not None:
                return
    raise InternalError(
        f"{store.uri}: the server lost parts of the upload {FRESH_STARTS} times; mend it, then start again"
    )


def _upload_files(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    begun: dict[str, str] = {}

    def outgoing() -> Iterator[tuple[str, Piece, int, Moved, dict[str, Any]]]:
        for name, facts in files.items():
            target, pieces, digest = f"{version}/{name}", _pieces(folder / name, facts, UPLOAD_PART), hashlib.sha256()
            if len(pieces) > 1:
                begun[target] = store.begin(target)
            for number, piece in enumerate(pieces, 1):
                crc = 0
                for block in _blocks(piece):
                    digest.update(block)
                    crc = zlib.crc32(block, crc)
                if piece is pieces[-1] and digest.hexdigest() != facts["sha256"]:
                    raise DataError(f"{piece.path}: is not what {MANIFEST} says; run the stage again")
                part = {"UploadId": begun[target], "PartNumber": number} if target in begun else {}
                yield target, piece, crc, moved, part

    try:
        with (
            _progress(f"upload {_short(store.uri)}", files) as moved,
            closing(in_order(store, store.send, outgoing())) as sent,
        ):
            for name, facts in files.items():
                parts, target = list(islice(sent, len(_pieces(folder / name, facts, UPLOAD_PART)))), f"{version}/{name}"
                if target in begun:
                    store.complete(target, begun[target], parts, facts["bytes"])
                    del begun[target]
    except BaseException:
        soon(lambda: [_abort(store, *unfinished) for unfinished in begun.items()])
        raise


def _download(store: Store, folder: Path, files: Mapping[str, Any], version: str) -> None:
    names = _large_first(files)

    def wanted() -> Iterator[tuple[str, Piece, Moved]]:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
            for piece in _pieces(folder / name, files[name], DOWNLOAD_PART):
                yield f"{version}/{name}", piece, moved

    with (
        _progress(f"download {_short(store.uri)}", files) as moved,
        closing(in_order(store, store.load, wanted())) as arrived,
    ):
        for name in names:
            digest = hashlib.sha256()
            for piece in _pieces(folder / name, files[name], DOWNLOAD_PART):
                try:
                    next(arrived)
                except GoneError:
                    raise _broken(store, name, "is missing or too short") from None
                for block in _blocks(piece):
                    digest.update(block)
            if digest.hexdigest() != files[name]["sha256"]:
                raise _broken(store, name, "is broken, its sha256 is not the manifest's")


def _broken(store: Store, name: str, problem: str) -> DataError:
    return DataError(f"{store.uri}: {name} {problem}; delete {store.uri} and run its stage again")


def _blocks(piece: Piece) -> Iterator[memoryview]:
    """The bytes of a piece, block after block in the same memory."""
    buffer = memoryview(bytearray(BLOCK))
    try:
        with piece.path.open("rb", buffering=0) as file:
            file.seek(piece.start)
            for start in range(0, piece.size, BLOCK):
                yield buffer[: file.readinto(buffer[: piece.size - start])]
    except OSError as error:
        raise DataError(f"{piece.path}: cannot be read ({error.strerror}); run the stage again") from None


@contextmanager
def _progress(description: str, files: Mapping[str, Any]) -> Iterator[Moved]:
    """Progress in bytes that several threads may report."""
    lock = threading.Lock()
    with progress(description, sum(facts["bytes"] for facts in files.values()), unit="bytes") as shown:

        def moved(count: int) -> None:
            with lock:
                shown.advance(count)

        yield moved


def _large_first(files: Mapping[str, Any]) -> list[str]:
    """The order in which most of the connections have work until the end."""
    return sorted(files, key=lambda name: (-files[name]["bytes"], name))


def _pieces(path: Path, facts: Mapping[str, Any], part: int) -> list[Piece]:
    """What a file travels in: at least one piece, be it empty."""
    size = facts["bytes"]
    return [Piece(path, start, min(part, size - start)) for start in range(0, max(size, 1), part)]


def _short(uri: str) -> str:
    """An address for a progress line: twelve digits of its key are enough."""
    return re.sub("([0-9a-f]{12})[0-9a-f]{52}$", r"\1", uri)
