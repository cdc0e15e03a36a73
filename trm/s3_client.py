"""Requests to an S3 server: tried again with patience, and what cannot be mended told in words.

Endpoint, region and keys are boto3's own business (environment, profile, IAM role). Its retries are off, as they end
after seconds: here one clock runs for each request. A request is tried again for `PATIENCE` seconds after its first
failure where that may pass: no connection, no answer, an answer cut short, 5xx, throttling, bytes that arrived broken.
"""

import base64
import io
import sys
import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential

from trm.errors import Fault, UserError

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from botocore.exceptions import ClientError

PATIENCE = 150.0
"""Seconds from a request's first failure to the last attempt."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds: pauses are drawn from 0 to a bound that doubles from the first to the longest."""
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
CONNECTIONS = 16
SEND_BLOCK = 1 << 20

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


class _Body(io.BytesIO):
    """Bytes to send; they go out in large blocks, however few the HTTP client asks for (it asks for 16 kB)."""

    def read(self, size: int | None = -1) -> bytes:
        """The next block."""
        return super().read(max(size, SEND_BLOCK) if size and size > 0 else size)


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

    def get(self, name: str, start: int | None = None, size: int = 0) -> bytes:
        """The bytes of an object, or `size` of them from `start`. Raises `GoneError`."""
        span = {} if start is None else {"Range": f"bytes={start}-{start + size - 1}"}

        def request() -> bytes:
            return self.client.get_object(Bucket=self.bucket, Key=f"{self.key}/{name}", **span)["Body"].read()

        return self._patiently(f"read {name}", request)

    def put(self, name: str, data: bytes, **options: object) -> None:
        """Write an object; the server has checked that the bytes it holds are these."""
        self._put(f"write {name}", self.client.put_object, data, Key=f"{self.key}/{name}", **options)

    def put_new(self, name: str, data: bytes) -> None:
        """Write an object that is not there yet. Raises `LostError` where it is."""
        self.put(name, data, IfNoneMatch="*")

    def begin(self, name: str) -> str:
        """Begin an object in parts; its upload id."""
        return self._call("create_multipart_upload", f"write {name}", name, ChecksumAlgorithm="CRC32")["UploadId"]

    def put_part(self, name: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
        """Write a part, checked as in `put`; what `complete` wants to know of it. Raises `GoneError`."""
        place = {"Key": f"{self.key}/{name}", "UploadId": upload, "PartNumber": number}
        answer = self._put(f"write {name}", self.client.upload_part, data, **place)
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]}

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

    def _call(self, operation: str, deed: str, name: str | None = None, **options: object) -> dict[str, Any]:
        place = {"Bucket": self.bucket} | ({} if name is None else {"Key": f"{self.key}/{name}"})
        return self._patiently(deed, lambda: getattr(self.client, operation)(**place, **options))

    def _put(
        self, deed: str, operation: Callable[..., dict[str, Any]], data: bytes, **options: object
    ) -> dict[str, Any]:
        """Both AWS and SeaweedFS refuse bytes whose CRC32 is not the header's, and say so by repeating it. ETags say
        less: with KMS they are no digest. Of the checksums that servers verify, this one costs least.
        """
        crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        answer = self._patiently(
            deed, lambda: operation(Bucket=self.bucket, Body=_Body(data), ChecksumCRC32=crc, **options)
        )
        if answer.get("ChecksumCRC32") != crc:
            raise Fault(f"{self.uri}: {self._server()} does not check what it is sent (CRC32); use one that does")
        return answer

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
                raise Fault(f"{self.uri}: {self._server()} cannot be reached ({_brief(error)}); {waited}") from None
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
            return Fault(f"{where}: {code}, tried for {PATIENCE:.0f} seconds; mend the server, then start again")
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
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        # We send a checksum of our own with all bytes and check a digest of all that come back.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    return Session().client("s3", config=config)


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
