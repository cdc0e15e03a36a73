"""Requests to an S3 server: tried again with patience, and what cannot be mended told in words.

Endpoint, region and keys are boto3's own business (environment, profile, IAM role). Its retries are off, as they end
after seconds: here one clock runs for each request. A request is tried again for `PATIENCE` seconds after its first
failure where that may pass: no connection, no answer, an answer cut short, 5xx, throttling, bytes that arrived broken.
"""

import base64
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential

from trm.utils.errors import InternalError, UserError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError
    from botocore.loaders import Loader

PATIENCE = 150.0
"""Seconds from a request's first failure to the last attempt."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds: pauses are drawn from 0 to a bound that doubles from the first to the longest."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
CONNECTIONS = 16
BLOCK = 256 << 10
"""Bytes that pass through memory at a time: small enough for a processor's cache."""

PASSING = {"RequestTimeout", "SlowDown", "InternalError", "BadDigest", "ConditionalRequestConflict", "OperationAborted"}
"""What servers say, besides 5xx and 429, of a thing that the next attempt may not meet."""
REMEDIES = {
    "InvalidAccessKeyId": "the server does not know this access key; correct AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the session token has expired; log in again",
    "AccessDenied": "these credentials may not do that; use others, or have them allowed to",
    "NoSuchBucket": "the bucket does not exist; create it or correct the address",
    "NotImplemented": "use a server that knows conditional writes, as AWS and SeaweedFS do",
}
Result = TypeVar("Result")


class LostError(Exception):
    """A conditional put came too late: the object is there."""


class GoneError(Exception):
    """The server knows no such object, or no such multipart upload (any more)."""


class CalledOffError(Exception):
    """The request is not wanted any more."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a local file, which travel in one request."""

    path: Path
    start: int
    size: int


Moved = Callable[[int], None]
"""Told how many bytes have passed, less than 0 where they have to pass again; from any thread."""


class _Body:
    """A piece as the body of a request, in blocks as large as it likes (the HTTP client would ask for 16 kB)."""

    def __init__(self, file: BinaryIO, piece: Piece, moved: Moved, called_off: threading.Event) -> None:
        self._file, self._piece, self._moved, self._called_off = file, piece, moved, called_off
        self._position = 0
        self.seek(0)

    def __len__(self) -> int:
        return self._piece.size

    def read(self, _size: int | None = None) -> bytes:
        if self._called_off.is_set():
            raise CalledOffError
        block = self._file.read(min(BLOCK, len(self) - self._position))
        self._position += len(block)
        self._moved(len(block))
        return block

    def seek(self, offset: int) -> None:
        self._moved(offset - self._position)
        self._position = offset
        self._file.seek(self._piece.start + offset)

    def tell(self) -> int:
        return self._position


class Store:
    """What lies under one address `s3://bucket/key`."""

    def __init__(self, uri: str) -> None:
        scheme, _, rest = uri.rstrip("/").partition("://")
        self.uri, (self.bucket, _, self.key) = f"s3://{rest}", rest.partition("/")
        if scheme != "s3" or not self.bucket or not all(self.key.split("/")):
            raise UserError(f"{uri}: is no address of an artifact; write it as s3://bucket/folder")
        self._called_off = threading.Event()
        self._told = False
        self.client = self._in_words("connect", _client)

    def call_off(self) -> None:
        """Let the requests of other threads end where they would be tried again."""
        ended, self._called_off = self._called_off, threading.Event()
        ended.set()

    def get(self, name: str) -> bytes:
        """The bytes of a small object. Raises `GoneError`."""
        return self.get_tagged(name)[0]

    def get_tagged(self, name: str) -> tuple[bytes, str]:
        """The bytes of a small object and the server's tag of them, for `put_over`. Raises `GoneError`."""

        def request() -> tuple[bytes, str]:
            answer = self.client.get_object(**self._place(name))
            with closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]

        return self._patiently(f"read {name}", request)

    def put(self, name: str, data: bytes, **options: object) -> None:
        """Write a small object, over an earlier one."""
        self._call("put_object", f"write {name}", name, Body=data, ChecksumCRC32=_stated(zlib.crc32(data)), **options)

    def put_new(self, name: str, data: bytes) -> None:
        """Write a small object that is not there yet. Raises `LostError` where it is."""
        self.put(name, data, IfNoneMatch="*")

    def put_over(self, name: str, data: bytes, tag: str) -> None:
        """Write a small object over the one with this tag. Raises `LostError` where another is there by now."""
        try:
            self.put(name, data, IfMatch=tag)
        except GoneError:  # AWS says so of an object that was deleted meanwhile
            raise LostError from None

    def load(self, name: str, piece: Piece, moved: Moved) -> None:
        """Bring a piece of an object to its place in a file that exists; where a connection breaks, the next one goes
        on from there. Raises `GoneError`.
        """
        called_off, done = self._called_off, 0

        def request() -> int:
            start, arrived = piece.start + done, 0
            place = {**self._place(name), "Range": f"bytes={start}-{piece.start + piece.size - 1}"}
            try:
                with closing(self.client.get_object(**place)["Body"]) as body, piece.path.open("r+b") as file:
                    file.seek(start)
                    while block := body.read(BLOCK):
                        if called_off.is_set():
                            raise CalledOffError
                        file.write(block)
                        moved(len(block))
                        arrived += len(block)
            except Exception as error:
                if not arrived or not _may_pass(error):
                    raise
            return arrived

        while done < piece.size:
            done += self._patiently(f"read {name}", request)

    def begin(self, name: str) -> str:
        """Begin an object in parts; its upload id."""
        return self._call("create_multipart_upload", f"write {name}", name, ChecksumAlgorithm="CRC32")["UploadId"]

    def send(self, name: str, piece: Piece, crc: int, moved: Moved, part: Mapping[str, Any]) -> dict[str, Any]:
        """Write an object, or a `part` of it (UploadId, PartNumber); what `complete` wants to know of the part.

        The server has checked that its bytes have this CRC32: AWS and SeaweedFS refuse others, and repeat it where they
        have looked. It is the cheapest of the checksums that servers know; ETags are no digest where KMS encrypts.
        Raises `GoneError` where the server has lost the upload.
        """
        called_off, stated = self._called_off, _stated(crc)
        operation = self.client.upload_part if part else self.client.put_object

        def request() -> dict[str, Any]:
            with piece.path.open("rb", buffering=0) as file:
                body = _Body(file, piece, moved, called_off)
                try:
                    return operation(**self._place(name), **part, Body=body, ChecksumCRC32=stated)
                except BaseException:
                    body.seek(0)
                    raise

        answer = self._patiently(f"write {name}", request)
        if answer.get("ChecksumCRC32") != stated:
            raise InternalError(f"{self.uri}: {self._server()} does not check what it is sent (CRC32); use one that does")
        return {"PartNumber": part.get("PartNumber"), "ETag": answer["ETag"], "ChecksumCRC32": stated}

    def complete(self, name: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        """Make an object of its parts. Raises `GoneError` where the server has lost the upload."""
        try:
            whole = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._call("complete_multipart_upload", f"write {name}", name, **whole)
        except GoneError:
            if self.sizes(name).get(name) != size:  # else it was done, and only the answer was lost
                raise

    def sizes(self, prefix: str) -> dict[str, int]:
        """The names that begin with `prefix`, and how many bytes each holds."""
        found: dict[str, int] = {}
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", "list what is there", Prefix=f"{self.key}/{prefix}", **more)
            found |= {item["Key"].removeprefix(f"{self.key}/"): item["Size"] for item in page.get("Contents", ())}
            if not page["IsTruncated"]:
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._call("delete_object", f"delete {name}", name)

    def uploads(self) -> dict[str, str]:
        """The uploads in parts that nobody has completed: name by upload id."""
        page = self._call("list_multipart_uploads", "list unfinished uploads", Prefix=f"{self.key}/")
        return {item["UploadId"]: item["Key"].removeprefix(f"{self.key}/") for item in page.get("Uploads", ())}

    def abort(self, name: str, upload: str) -> None:
        """Throw the parts of an upload away."""
        self._call("abort_multipart_upload", f"give up writing {name}", name, UploadId=upload)

    def _place(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.key}/{name}"}

    def _call(self, operation: str, deed: str, name: str | None = None, **options: object) -> dict[str, Any]:
        place = {"Bucket": self.bucket} if name is None else self._place(name)
        return self._patiently(deed, lambda: getattr(self.client, operation)(**place, **options))

    def _patiently(self, deed: str, request: Callable[[], Result]) -> Result:
        called_off = self._called_off

        def attempt() -> Result:
            if called_off.is_set():
                raise CalledOffError
            return request()

        patient = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=_OutOfPatience(),
            sleep=sleep_using_event(called_off),
            before_sleep=self._tell,
            reraise=True,
        )
        return self._in_words(deed, lambda: patient(attempt))

    def _tell(self, state: RetryCallState) -> None:
        """Say once that we wait, when it is more than a hiccup."""
        if state.idle_for > LONGEST_WAIT and not self._told and state.outcome:
            self._told = True
            problem = _brief(state.outcome.exception())
            print(f"{self.uri}: {self._server()}: {problem}; still trying", file=sys.stderr, flush=True)

    def _in_words(self, deed: str, request: Callable[[], Result]) -> Result:
        """What `request` returns; errors of boto3 become ours."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return request()
        except ClientError as error:
            raise self._refusal(deed, error) from None
        except (BotoCoreError, ValueError) as error:
            if _may_pass(error):
                waited = (
                    f"tried for {PATIENCE:.0f} seconds; check the network and AWS_ENDPOINT_URL_S3, then start again"
                )
                raise InternalError(f"{self.uri}: {self._server()} cannot be reached ({_brief(error)}); {waited}") from None
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or correct the settings of boto3"
            raise UserError(f"{self.uri}: {_brief(error)}; {remedy}") from None

    def _refusal(self, deed: str, error: "ClientError") -> Exception:
        code, status = _code(error), _status(error)
        if status == 412:
            return LostError()
        if code in ("NoSuchKey", "NoSuchUpload", "InvalidPart", "InvalidRange", "404"):
            return GoneError()
        where = f"{self.uri}: cannot {deed} at {self._server()}"
        if _may_pass(error):
            return InternalError(f"{where}: {code}, tried for {PATIENCE:.0f} seconds; mend the server, then start again")
        remedy = REMEDIES.get(code) or f"{error.response['Error'].get('Message') or status}; correct the settings of S3"
        return UserError(f"{where}: {code}: {remedy}")

    def _server(self) -> str:
        """Host and port of the server, without what else an address may hold."""
        parts = urlsplit(self.client.meta.endpoint_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


class _OutOfPatience:
    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, state: RetryCallState) -> bool:
        now = state.outcome_timestamp or 0.0
        self.first = now if self.first is None else self.first
        return now - self.first >= PATIENCE


def _client() -> "BaseClient":
    from botocore.config import Config
    from botocore.session import Session

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        # We send a checksum with all bytes and check a digest of all that come back; neither is needed twice.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    session = Session()
    session.register_component("data_loader", _descriptions())
    return session.create_client("s3", config=config)


@cache
def _descriptions() -> "Loader":
    """What boto3 knows of S3: reading that takes longer than all else that makes a client."""
    from botocore.loaders import create_loader

    return create_loader()


def _stated(crc: int) -> str:
    """A CRC32 as S3 writes it."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _may_pass(error: BaseException) -> bool:
    from botocore.exceptions import ClientError, IncompleteReadError, ResponseStreamingError

    if isinstance(error, ClientError):
        return _code(error) in PASSING or _status(error) == 429 or (_status(error) >= 500 and _status(error) != 501)
    broken = _is_of_the_network(error) or isinstance(error, (IncompleteReadError, ResponseStreamingError))
    return broken and "CERTIFICATE_VERIFY_FAILED" not in str(error)


def _is_of_the_network(error: BaseException | None) -> bool:
    from botocore.exceptions import ConnectionError, HTTPClientError

    return isinstance(error, (ConnectionError, HTTPClientError))


def _code(error: "ClientError") -> str:
    return str(error.response.get("Error", {}).get("Code"))


def _status(error: "ClientError") -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _brief(error: BaseException | None) -> str:
    """An error in a few words, without the address that may stand in its text."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _code(error)
    return type(error).__name__ if _is_of_the_network(error) else " ".join(str(error).split()).rstrip(".")
