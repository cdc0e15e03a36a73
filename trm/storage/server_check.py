"""Whether an S3 server does what the artifacts require: each operation is tried once below the artifact root."""

import secrets
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from trm.storage.s3_chunks import FileChunk
from trm.storage.s3_client import NotFoundError, Store
from trm.utils.errors import UserError
from trm.utils.findings import Finding, NotCheckedError, check

RETRY_SECONDS = 5.0
MAX_CLOCK_DIFFERENCE = 60.0
"""Seconds. S3 refuses requests whose time differs by more than 15 minutes; tokens of the login expire earlier."""
_OTHER = "use a server with the consistency of S3"


def check_server(root: str, name: str = "S3") -> Iterator[Finding]:
    """Write, read, list and delete objects below `<root>/doctor/<random name>`; yield the findings.

    name: how the titles of the findings start. Afterwards only the small object `conditional-write-test` is left, as
    after each publication.
    """
    uri = f"{root}/doctor/{secrets.token_hex(8)}"
    first = check(name, lambda: _listing(root, Store(uri, RETRY_SECONDS)))
    yield first
    checks: dict[str, Callable[[Store], str]] = {
        "objects": _objects,
        "uploads in parts": _parts,
        "conditional writes": _conditions,
        "clock": _clock,
    }
    for what, function in checks.items():
        if first.is_ok:
            yield check(f"{name} {what}", lambda function=function: function(Store(uri, RETRY_SECONDS)))
        else:
            yield Finding(f"{name} {what}", "S3 cannot be used", is_ok=None)


def _listing(root: str, store: Store) -> str:
    store.sizes("")
    return f"{root} can be listed at {store.client.meta.endpoint_url}, region {store.client.meta.region_name}"


def _objects(store: Store) -> str:
    data = secrets.token_bytes(64)
    store.put("object", data)
    try:
        if store.get("object") != data:
            raise UserError(f"{store.uri}: returns other bytes than were written; {_OTHER}")
        if store.sizes("") != {"object": len(data)}:
            raise UserError(f"{store.uri}: a listing lacks an object that was just written; {_OTHER}")
    finally:
        store.delete("object")
    try:
        store.get("object")
    except NotFoundError:
        return "written, read, listed and deleted"
    raise UserError(f"{store.uri}: returns an object after its deletion; {_OTHER}")


def _parts(store: Store) -> str:
    """Upload a file in one part, with its CRC32, as large files are uploaded."""
    data = secrets.token_bytes(64)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_bytes(data)
        upload = store.begin("parts")
        try:
            number = {"UploadId": upload, "PartNumber": 1}
            part = store.send("parts", FileChunk(file, 0, len(data)), zlib.crc32(data), lambda _: None, number)
            store.complete("parts", upload, [part], len(data))
        except Exception:
            store.abort("parts", upload)
            raise
    store.delete("parts")
    return "the server verifies the CRC32 of a part"


def _conditions(store: Store) -> str:
    store.require_condition("IfNoneMatch")
    store.require_condition("IfMatch")
    return "If-None-Match and If-Match are honoured"


def _clock(store: Store) -> str:
    time = store.server_time()
    if time is None:
        raise NotCheckedError("the server's responses have no date")
    difference = (time - datetime.now(UTC)).total_seconds()
    if abs(difference) > MAX_CLOCK_DIFFERENCE:
        raise UserError(
            f"the server's clock is {abs(difference):.0f} s {'ahead' if difference > 0 else 'behind'}; synchronize the "
            "clocks of this machine and of the server (NTP)"
        )
    return f"differs by less than {MAX_CLOCK_DIFFERENCE:.0f} s"
