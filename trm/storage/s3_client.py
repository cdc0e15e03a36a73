"""An S3 client that retries requests for a limited time and reports errors as one line.

boto3 reads endpoint, region and keys as usual (environment, profile, IAM role). Its own retries are disabled because
they end after a few seconds. Here a request is retried for `RETRY_SECONDS` after its first failure if the error may be
transient: no connection, no response, a truncated response, 5xx, throttling, or a checksum mismatch.
"""

import base64
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential

from trm.storage import s3_errors
from trm.storage.s3_chunks import BLOCK, CancelledTransferError, ChunkBody, FileChunk, OnBytes
from trm.utils.errors import InternalError, UserError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError
    from botocore.loaders import Loader

RETRY_SECONDS = 150.0
"""Maximum time in seconds from the first failure of a request to its last attempt."""
MIN_WAIT, MAX_WAIT = 0.5, 10.0
"""Seconds: each wait is drawn uniformly from 0 to a limit, which doubles from MIN_WAIT up to MAX_WAIT."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
CONNECTIONS = 16

EXPECTED = {"put_object": "ETag", "create_multipart_upload": "UploadId", "list_objects_v2": "IsTruncated"}
EXPECTED |= {"copy_object": "CopyObjectResult"}
"""Operation -> a field that each response of an S3 server has."""
CONDITION_TEST = "conditional-write-test"
CONDITION_TEST_TEXT = b"trm wrote this object to test whether the server honours conditional writes.\n"
PROVEN: set[tuple[str, str, str, str]] = set()
"""Endpoint, bucket, root and condition whose test has succeeded in this process."""
Result = TypeVar("Result")


class ConflictError(Exception):
    """The condition of a put is not met: another object exists."""


class NotFoundError(Exception):
    """The object or the multipart upload does not exist."""


@dataclass(frozen=True)
class StoredObject:
    """An object of a listing."""

    size: int
    """Bytes."""
    modified: datetime
    """When it was written, with a time zone."""


class Store:
    """The objects below one URI `s3://bucket/key`. Names of objects are relative to it.

    retry_seconds: time from the first failure of a request to its last attempt; None: `RETRY_SECONDS`. client: a client
    that is shared with another `Store`, see `at`; None: a new one.
    """

    def __init__(self, uri: str, retry_seconds: float | None = None, client: "BaseClient | None" = None) -> None:
        scheme, _, rest = uri.rstrip("/").partition("://")
        self.uri, (self.bucket, _, self.key) = f"s3://{rest}", rest.partition("/")
        if scheme != "s3" or not self.bucket or not all(self.key.split("/")):
            raise UserError(f"{uri}: not an S3 URI; write it as s3://bucket/folder")
        self._cancelled = threading.Event()
        self._wait_reported = False
        self._retry_seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        self.client = client or self._translate_errors("connect", create_client)

    def at(self, uri: str) -> "Store":
        """The objects below another URI, with the client of this store: a new one takes 20 ms and a connection."""
        return Store(uri, self._retry_seconds, self.client)

    def cancel(self) -> None:
        """Cancel the requests of other threads."""
        ended, self._cancelled = self._cancelled, threading.Event()
        ended.set()

    def get(self, name: str) -> bytes:
        """Read a small object. Raises `NotFoundError`."""
        return self.get_with_etag(name)[0]

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        """Read a small object and its ETag, which `put_if_match` takes. Raises `NotFoundError`."""

        def request() -> tuple[bytes, str]:
            answer = _checked(self.client.get_object(**self._location(name)))
            with closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]

        return self._with_retries(f"read {name}", request)

    def put(self, name: str, data: bytes, **options: object) -> None:
        """Write a small object; an existing one is replaced."""
        self._call(
            "put_object", f"write {name}", name, Body=data, ChecksumCRC32=_encoded_crc(zlib.crc32(data)), **options
        )

    def put_if_absent(self, name: str, data: bytes) -> None:
        """Write a small object. Raises `ConflictError` if it exists."""
        self.require_condition("IfNoneMatch")
        self.put(name, data, IfNoneMatch="*")

    def put_if_match(self, name: str, data: bytes, tag: str) -> None:
        """Replace the small object with this ETag. Raises `ConflictError` if it has changed."""
        self.require_condition("IfMatch")
        try:
            self.put(name, data, IfMatch=tag)
        except NotFoundError:  # the response of AWS if the object was deleted
            raise ConflictError from None

    def require_condition(self, condition: Literal["IfNoneMatch", "IfMatch"]) -> None:
        """Test once per process and root whether the server honours a condition: some accept and ignore it.

        Without it, two writers overwrite each other unnoticed. The test object stays below the root, two levels above
        the URI. Raises `UserError` if the condition is ignored.
        """
        root = "/".join(self.key.split("/")[:-2])
        place = (self.client.meta.endpoint_url, self.bucket, root, condition)
        if place in PROVEN:
            return
        impossible = {"IfNoneMatch": {"IfNoneMatch": "*"}, "IfMatch": {"IfMatch": f'"{"0" * 32}"'}}[condition]
        where = {"Bucket": self.bucket, "Key": f"{root}/{CONDITION_TEST}".lstrip("/")}

        def put(options: Mapping[str, str]) -> None:
            self._with_retries(
                "test conditional writes", lambda: self.client.put_object(**where, Body=CONDITION_TEST_TEXT, **options)
            )

        with suppress(ConflictError):
            put({"IfNoneMatch": "*"})
        try:
            put(impossible)
        except ConflictError:
            PROVEN.add(place)
            return
        header = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}[condition]
        raise UserError(
            f"{self.uri}: {self._server()} ignores the condition {header} of a write, so that two writers would "
            "overwrite each other's results; use a server with conditional writes, such as AWS or SeaweedFS"
        )

    def load(self, name: str, chunk: FileChunk, on_bytes: OnBytes) -> None:
        """Download a chunk of an object into an existing file. After a broken connection the download resumes.

        Raises `NotFoundError`.
        """
        cancelled, done = self._cancelled, 0

        def request() -> int:
            start, arrived = chunk.start + done, 0
            place = {**self._location(name), "Range": f"bytes={start}-{chunk.start + chunk.size - 1}"}
            try:
                with closing(_checked(self.client.get_object(**place))["Body"]) as body, chunk.path.open("r+b") as file:
                    file.seek(start)
                    while block := body.read(BLOCK):
                        if cancelled.is_set():
                            raise CancelledTransferError
                        file.write(block)
                        on_bytes(len(block))
                        arrived += len(block)
            except Exception as error:
                if not arrived or not s3_errors.is_transient(error):
                    raise
            return arrived

        while done < chunk.size:
            done += self._with_retries(f"read {name}", request)

    def begin(self, name: str) -> str:
        """Create a multipart upload. Returns its upload ID."""
        return self._call("create_multipart_upload", f"write {name}", name, ChecksumAlgorithm="CRC32")["UploadId"]

    def send(self, name: str, chunk: FileChunk, crc: int, on_bytes: OnBytes, part: Mapping[str, Any]) -> dict[str, Any]:
        """Upload an object, or a `part` of one (UploadId, PartNumber). Returns the part's entry for `complete`.

        The server verifies the CRC32 and returns it; AWS and SeaweedFS reject other bytes. CRC32 is the cheapest
        checksum that S3 servers support. An ETag is not a digest if the bucket is encrypted with KMS. Raises
        `NotFoundError` if the server no longer has the upload, `UserError` if it does not verify checksums.
        """
        cancelled, encoded = self._cancelled, _encoded_crc(crc)

        def request() -> dict[str, Any]:
            with chunk.path.open("rb", buffering=0) as file:
                body = ChunkBody(file, chunk, on_bytes, cancelled)
                operation = self.client.upload_part if part else self.client.put_object
                try:
                    return operation(**self._location(name), **part, Body=body, ChecksumCRC32=encoded)
                except BaseException:
                    body.seek(0)
                    raise

        answer = self._with_retries(f"write {name}", request)
        if answer.get("ChecksumCRC32") != encoded:
            raise UserError(f"{self.uri}: {self._server()} does not verify checksums (CRC32); use a server that does")
        return {"PartNumber": part.get("PartNumber"), "ETag": answer["ETag"], "ChecksumCRC32": encoded}

    def complete(self, name: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        """Complete a multipart upload. Raises `NotFoundError` if the server no longer has it."""
        try:
            whole = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            self._call("complete_multipart_upload", f"write {name}", name, **whole)
        except NotFoundError:
            if self.sizes(name).get(name) != size:  # otherwise it succeeded, and only the response was lost
                raise

    def copy(self, name: str, source: str) -> None:
        """Copy an object of the same bucket on the server. source: its whole key. Raises `NotFoundError`."""
        self._call("copy_object", f"copy {name}", name, CopySource={"Bucket": self.bucket, "Key": source})

    def sizes(self, prefix: str) -> dict[str, int]:
        """Name -> size in bytes of the objects whose names start with `prefix`."""
        return {name: found.size for name, found in self.objects(prefix).items()}

    def objects(self, prefix: str) -> dict[str, StoredObject]:
        """Name -> size and time of the objects whose names start with `prefix`."""
        found: dict[str, StoredObject] = {}
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", "list objects", Prefix=f"{self.key}/{prefix}", **more)
            for item in page.get("Contents", ()):
                modified = item.get("LastModified") or datetime.now(UTC)  # some servers omit it: the object may be new
                found[item["Key"].removeprefix(f"{self.key}/")] = StoredObject(item["Size"], modified)
            if not page["IsTruncated"]:
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def server_time(self) -> datetime | None:
        """The time of the server's clock, in seconds; None if its responses have none."""
        answer = self._call("list_objects_v2", "list objects", Prefix=f"{self.key}/", MaxKeys=1)
        text = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(text) if text else None

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._call("delete_object", f"delete {name}", name)

    def uploads(self) -> dict[str, str]:
        """Upload ID -> name of the incomplete multipart uploads."""
        page = self._call("list_multipart_uploads", "list incomplete uploads", Prefix=f"{self.key}/")
        return {item["UploadId"]: item["Key"].removeprefix(f"{self.key}/") for item in page.get("Uploads", ())}

    def abort(self, name: str, upload: str) -> None:
        """Abort a multipart upload and delete its parts."""
        self._call("abort_multipart_upload", f"abort the upload of {name}", name, UploadId=upload)

    def _location(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.key}/{name}"}

    def _call(self, operation: str, action: str, name: str | None = None, **options: object) -> dict[str, Any]:
        place = {"Bucket": self.bucket} if name is None else self._location(name)
        expected = EXPECTED.get(operation)
        return self._with_retries(
            action, lambda: _checked(getattr(self.client, operation)(**place, **options), expected)
        )

    def _with_retries(self, action: str, request: Callable[[], Result]) -> Result:
        from botocore.exceptions import ClientError

        cancelled = self._cancelled

        def attempt() -> Result:
            if cancelled.is_set():
                raise CancelledTransferError
            try:
                return request()
            except ClientError as error:
                if s3_errors.code_of(error) not in s3_errors.EXPIRED_CODES:
                    raise
                self.client = create_client()  # reads the credentials again, which another program may have renewed
                return request()

        retrying = Retrying(
            retry=retry_if_exception(s3_errors.is_transient),
            wait=wait_random_exponential(multiplier=MIN_WAIT, max=MAX_WAIT),
            stop=_StopAfter(self._retry_seconds),
            sleep=sleep_using_event(cancelled),
            before_sleep=self._report_wait,
            reraise=True,
        )
        return self._translate_errors(action, lambda: retrying(attempt))

    def _report_wait(self, state: RetryCallState) -> None:
        """Print once that requests are being retried, if it takes longer than `MAX_WAIT`."""
        if state.idle_for > MAX_WAIT and not self._wait_reported and state.outcome:
            self._wait_reported = True
            problem = s3_errors.summary(state.outcome.exception())
            print(f"{self.uri}: {self._server()}: {problem}; retrying", file=sys.stderr, flush=True)

    def _translate_errors(self, action: str, request: Callable[[], Result]) -> Result:
        """Return `request()`; errors of boto3 become errors of this project."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return request()
        except ClientError as error:
            raise self._refused(action, error) from None
        except s3_errors.ForeignAnswerError:
            where = f"{self.uri}: cannot {action} at {self._server()}"
            raise UserError(f"{where}: the response is not that of an S3 server; {s3_errors.OTHER_SERVER}") from None
        except (BotoCoreError, ValueError) as error:
            if s3_errors.is_transient(error):
                waited = f"retried for {self._retry_seconds:.0f} seconds; check the network and AWS_ENDPOINT_URL_S3"
                raise InternalError(
                    f"{self.uri}: {self._server()} cannot be reached ({s3_errors.summary(error)}); {waited}"
                ) from None
            raise UserError(f"{self.uri}: {s3_errors.remedy_for(error)}") from None

    def _refused(self, action: str, error: "ClientError") -> Exception:
        if s3_errors.is_conflict(error):
            return ConflictError()
        if s3_errors.is_missing(error):
            return NotFoundError()
        where = f"{self.uri}: cannot {action} at {self._server()}"
        if s3_errors.is_transient(error):
            return InternalError(
                f"{where}: {s3_errors.code_of(error)}, retried for {self._retry_seconds:.0f} seconds; "
                "repair the server, then run it again"
            )
        return UserError(f"{where}: {s3_errors.refusal(error, self.client.meta.endpoint_url)}")

    def _server(self) -> str:
        """Host and port of the server; the rest of the URL may contain secrets."""
        parts = urlsplit(self.client.meta.endpoint_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


class _StopAfter:
    def __init__(self, seconds: float) -> None:
        self.seconds, self.first = seconds, None

    def __call__(self, state: RetryCallState) -> bool:
        now = state.outcome_timestamp or 0.0
        self.first = now if self.first is None else self.first
        return now - self.first >= self.seconds


def create_client() -> "BaseClient":
    """An S3 client for the environment and configuration files. `Store` repeats failed requests, not the client."""
    from botocore.config import Config
    from botocore.session import Session

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        # Uploads have a CRC32 and downloads are compared with a SHA-256; more checksums are redundant.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    session = Session()
    session.register_component("data_loader", _service_models())
    client = session.create_client("s3", config=config)
    client.meta.events.register("before-parse.s3", s3_errors.reject_pages)
    return client


@cache
def _service_models() -> "Loader":
    """The service models of boto3. Reading them is the slowest part of creating a client."""
    from botocore.loaders import create_loader

    return create_loader()


def _checked(answer: dict[str, Any], expected: str | None = "ETag") -> dict[str, Any]:
    """Raises `ForeignAnswerError` for a successful response without a field that each S3 server sends."""
    if expected and expected not in answer:
        s3_errors.close_body(answer.get("Body"))
        raise s3_errors.ForeignAnswerError
    return answer


def _encoded_crc(crc: int) -> str:
    """A CRC32 in the encoding of S3 headers."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
