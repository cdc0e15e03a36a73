"""Download of one file over http(s): resumable, retried, verified, and moved to its destination only when complete.

The received bytes are kept in `$TRM_CACHE_DIR` (default: the user's cache folder), so a later process can resume. A
download resumes only if the server confirms that the file is unchanged (If-Range with its ETag or date), or if a
SHA-256 is given to verify the result. Otherwise it restarts.

Retries use tenacity directly. A helper shared with `trm.storage.s3_client` would have no common part: here the limit is
a number of attempts without progress and the server's Retry-After sets the wait; there the limit is a time since the
first failure, with random waits that another thread can end.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from trm.utils.errors import DataError, UserError
from trm.utils.file_formats import printable
from trm.utils.paths import cache_folder, file_digest, is_disk_full
from trm.utils.progress import progress

MAX_STALLED_ATTEMPTS = 6
"""Consecutive attempts that receive no new byte."""
MAX_ATTEMPTS = 1000
"""Total attempts, for servers that always disconnect after a few bytes."""
MAX_CONNECT_ATTEMPTS = 3
"""Consecutive attempts to connect."""
MIN_WAIT, MAX_WAIT = 0.5, 30.0
"""Seconds before the second attempt, doubled for each further attempt up to the maximum. Retry-After takes precedence.
"""


class _TransientError(Exception):
    """An attempt failed, and a retry may succeed. `wait`: the server's Retry-After in seconds."""

    def __init__(self, problem: str, connected: bool = True, wait: float | None = None) -> None:
        super().__init__(problem)
        self.connected, self.wait = connected, wait


def download(url: str, dest: Path, sha256: str | None) -> str:
    """Download `url` to the file `dest` and return the SHA-256 of its bytes.

    Timeouts, broken connections, 429 and 5xx are retried with increasing waits. Raises `UserError` if the server
    rejects the request (4xx), cannot be reached or never delivers, or if the disk is full; `DataError` if the SHA-256
    differs from `sha256`. `dest` is not created then, and a file with a wrong SHA-256 is removed from the cache.
    """
    folder = cache_folder() / "downloads"
    name = hashlib.sha256(url.encode()).hexdigest()
    partial = folder / f"{name}.partial"
    with _disk_errors(folder, partial):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            transfer = _Transfer(url, partial, can_verify=sha256 is not None)
            transfer.run()
            actual = file_digest(partial)
            if actual != sha256 and sha256 is not None and transfer.resumed:
                # The resumed part may belong to a newer file: download it again in one piece before reporting an error.
                transfer.discard()
                transfer.run()
                actual = file_digest(partial)
            if actual != (sha256 or actual):
                transfer.discard()
                raise DataError(
                    f"{url}: expected sha256 {sha256}. Got {actual}; the download was deleted; correct the sha256 "
                    "in data.source if the file was updated"
                )
            _publish(partial, dest)
            transfer.discard()
    return actual


class _Transfer:
    """The partial file of one URL, and the metadata that the server sent with it."""

    def __init__(self, url: str, partial: Path, can_verify: bool) -> None:
        self.url, self.partial, self.can_verify = url, partial, can_verify
        self.metadata = partial.with_suffix(".json")
        self.resumed = False
        self.stalled_attempts = 0

    def run(self) -> None:
        """Retry until the file is complete."""
        retrying = Retrying(
            retry=retry_if_exception_type(_TransientError), stop=self._should_stop, wait=self._wait, reraise=True
        )
        timeout = httpx.Timeout(30.0, connect=10.0)
        try:
            with httpx.Client(follow_redirects=True, timeout=timeout) as client:
                retrying(self._attempt, client)
        except _TransientError as problem:
            raise UserError(
                f"{self.url}: {problem}, after {self.stalled_attempts} attempts; check the network and the URL, or "
                "download the file manually and set data.source.type: path"
            ) from None

    def discard(self) -> None:
        """Delete the partial file."""
        for file in (self.partial, self.metadata):
            file.unlink(missing_ok=True)

    def _should_stop(self, state: RetryCallState) -> bool:
        problem = state.outcome.exception() if state.outcome else None
        connected = isinstance(problem, _TransientError) and problem.connected
        if state.attempt_number >= MAX_ATTEMPTS:
            return True
        return self.stalled_attempts >= (MAX_STALLED_ATTEMPTS if connected else MAX_CONNECT_ATTEMPTS)

    def _wait(self, state: RetryCallState) -> float:
        problem = state.outcome.exception() if state.outcome else None
        if isinstance(problem, _TransientError) and problem.wait is not None:
            return min(problem.wait, MAX_WAIT)
        return min(MIN_WAIT * 2 ** max(self.stalled_attempts - 1, 0), MAX_WAIT)

    def _attempt(self, client: httpx.Client) -> None:
        offset = self._received_bytes()
        try:
            self._receive(client, offset)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.stalled_attempts += 1
            raise _TransientError(f"the server cannot be reached ({error})", connected=False) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise UserError(f"{self.url}: not a valid URL ({error}); correct data.source") from None
        except httpx.TooManyRedirects:
            raise UserError(f"{self.url}: too many redirects; correct the URL") from None
        except httpx.TransportError as error:
            self.stalled_attempts = 1 if self._received_bytes() > offset else self.stalled_attempts + 1
            raise _TransientError(f"the connection broke ({type(error).__name__}: {error})") from None
        except _TransientError:
            self.stalled_attempts = 1 if self._received_bytes() > offset else self.stalled_attempts + 1
            raise

    def _receive(self, client: httpx.Client, offset: int) -> None:
        metadata = self._read_metadata()
        headers = {"Accept-Encoding": "identity"}
        if offset and (metadata.get("validator") or self.can_verify):
            headers["Range"] = f"bytes={offset}-"
            if metadata.get("validator"):
                headers["If-Range"] = metadata["validator"]
        with client.stream("GET", self.url, headers=headers) as response:
            self._check_status(response)
            resumes = response.status_code == 206 and self._is_continuation(response, offset, metadata)
            if "Range" in headers and response.status_code in (206, 416) and not resumes:
                self.discard()  # the partial file belongs to another version of the file: restart
                raise _TransientError("the file on the server has changed", wait=0.0)
            total = self._total(response)
            self.resumed = resumes
            self.metadata.write_text(json.dumps({"validator": _validator(response), "total": total}))
            self._write(response, total, offset if resumes else 0)

    def _write(self, response: httpx.Response, total: int | None, offset: int) -> None:
        name = printable(Path(httpx.URL(self.url).path).name or self.url)
        with (
            self.partial.open("ab" if offset else "wb") as file,
            progress(f"download {name}", total, done=offset, unit="bytes") as bar,
        ):
            for chunk in response.iter_raw():  # unbuffered: every received byte is kept if the connection breaks
                file.write(chunk)
                bar.advance(len(chunk))
        if total is not None and self._received_bytes() != total:
            raise _TransientError(f"{self._received_bytes()} bytes received. Expected {total}")

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 429 or status >= 500:
            retry_after = response.headers.get("Retry-After", "")
            raise _TransientError(
                f"the server responded {status}", wait=float(retry_after) if retry_after.isdigit() else None
            )
        if status not in (200, 206, 416):
            reason = f"{status} {response.reason_phrase}".strip()
            raise UserError(f"{self.url}: the server responded {reason}; correct the URL in data.source")

    def _is_continuation(self, response: httpx.Response, offset: int, metadata: dict[str, Any]) -> bool:
        """Whether a partial response starts where the received bytes end, and belongs to the same file."""
        unit, _, extent = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = extent.partition("/")
        same_offset = unit == "bytes" and span.startswith(f"{offset}-")
        same_total = metadata.get("total") is None or total in ("*", str(metadata["total"]))
        previous, current = metadata.get("validator"), _validator(response)
        return same_offset and same_total and (previous is None or current is None or current == previous)

    def _total(self, response: httpx.Response) -> int | None:
        if response.status_code == 206:  # Content-Length is the length of the part
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdigit() else None
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None

    def _received_bytes(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _read_metadata(self) -> dict[str, Any]:
        try:
            metadata = json.loads(self.metadata.read_text())
        except (OSError, ValueError):
            return {}
        return metadata if isinstance(metadata, dict) else {}


def _validator(response: httpx.Response) -> str | None:
    """The value for If-Range: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _publish(partial: Path, dest: Path) -> None:
    """Move the complete file to `dest`; across file systems it is copied to a temporary name first."""
    try:
        partial.replace(dest)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = dest.with_name(f"{dest.name}.partial")
        try:
            shutil.copyfile(partial, temporary)
            temporary.replace(dest)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _disk_errors(folder: Path, partial: Path) -> Iterator[None]:
    """Convert disk errors to `UserError`; if the disk is full, the partial file is deleted."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            partial.unlink(missing_ok=True)
            raise UserError(f"{error.filename or folder}: the disk is full; free space or set TRM_CACHE_DIR") from None
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); "
            "check the permissions or set TRM_CACHE_DIR"
        ) from None
