"""One file from an http(s) address: taken up again where it broke off, tried again, checked, and whole or not there.

What has arrived lies in `$TRM_CACHE_DIR` (default: the user's cache folder), so that a download killed today goes on
tomorrow. It goes on only if the server vouches that the file is the same (If-Range with its ETag or date), or if a
sha256 will tell; otherwise it starts again.
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
from trm.utils.paths import cache_folder, file_digest, is_disk_full
from trm.utils.progress import progress

FRUITLESS_ATTEMPTS = 6
"""Attempts in a row that bring not one new byte."""
MOST_ATTEMPTS = 1000
"""Attempts in all, for a server that always breaks off after a few bytes."""
UNREACHED_ATTEMPTS = 3
"""The same where the server cannot even be reached."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second attempt, doubled from one to the next up to the longest; a server's Retry-After wins."""


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass; `wait` is the server's own wish in seconds."""

    def __init__(self, problem: str, reached: bool = True, wait: float | None = None) -> None:
        super().__init__(problem)
        self.reached, self.wait = reached, wait


def download(url: str, dest: Path, sha256: str | None) -> str:
    """Fetch `url` to the file `dest` and return the sha256 of its bytes, which must be `sha256` where one is given.

    Timeouts, broken connections, 429 and 5xx are tried again with growing pauses. Raises `UserError` when the server
    refuses (4xx), cannot be reached or never delivers, and when the disk is full; `DataError` for a wrong sha256. Then
    nothing is left at `dest`, and a wrong file is deleted from the cache too.
    """
    folder = cache_folder() / "downloads"
    name = hashlib.sha256(url.encode()).hexdigest()
    partial = folder / f"{name}.partial"
    with _disk(folder, partial):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            transfer = _Transfer(url, partial, trust_any_range=sha256 is not None)
            transfer.run()
            seen = file_digest(partial)
            if seen != sha256 and sha256 is not None and transfer.resumed:
                # The rest may have belonged to a newer file: only a copy in one piece can convict the server.
                transfer.forget()
                transfer.run()
                seen = file_digest(partial)
            if seen != (sha256 or seen):
                transfer.forget()
                raise DataError(
                    f"{url}: sha256 is {seen}, expected {sha256}; the file was deleted. Correct the sha256 in "
                    "data.source if the file has changed for good reasons"
                )
            _publish(partial, dest)
            transfer.forget()
    return seen


class _Transfer:
    """The bytes of one address that have arrived, and what the server said of the file they belong to."""

    def __init__(self, url: str, partial: Path, trust_any_range: bool) -> None:
        self.url, self.partial, self.trust_any_range = url, partial, trust_any_range
        self.notes = partial.with_suffix(".json")
        self.resumed = False
        self.fruitless = 0

    def run(self) -> None:
        """Attempt until the file is whole."""
        waits = Retrying(
            retry=retry_if_exception_type(_TryAgainError), stop=self._give_up, wait=self._pause, reraise=True
        )
        timeout = httpx.Timeout(30.0, connect=10.0)
        try:
            with httpx.Client(follow_redirects=True, timeout=timeout) as client:
                waits(self._attempt, client)
        except _TryAgainError as problem:
            raise UserError(
                f"{self.url}: {problem}, after {self.fruitless} attempts; check the network and the address, or fetch "
                "the file by other means and set data.source.type: path"
            ) from None

    def forget(self) -> None:
        """Delete what has arrived."""
        for file in (self.partial, self.notes):
            file.unlink(missing_ok=True)

    def _give_up(self, state: RetryCallState) -> bool:
        problem = state.outcome.exception() if state.outcome else None
        reached = isinstance(problem, _TryAgainError) and problem.reached
        if state.attempt_number >= MOST_ATTEMPTS:
            return True
        return self.fruitless >= (FRUITLESS_ATTEMPTS if reached else UNREACHED_ATTEMPTS)

    def _pause(self, state: RetryCallState) -> float:
        problem = state.outcome.exception() if state.outcome else None
        if isinstance(problem, _TryAgainError) and problem.wait is not None:
            return min(problem.wait, LONGEST_WAIT)
        return min(FIRST_WAIT * 2 ** max(self.fruitless - 1, 0), LONGEST_WAIT)

    def _attempt(self, client: httpx.Client) -> None:
        before = self._arrived()
        try:
            self._receive(client, before)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.fruitless += 1
            raise _TryAgainError(f"the server cannot be reached ({error})", reached=False) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise UserError(f"{self.url}: not an address that can be fetched ({error}); correct data.source") from None
        except httpx.TooManyRedirects:
            raise UserError(f"{self.url}: the server redirects in a circle; correct the address") from None
        except httpx.TransportError as error:
            self.fruitless = 1 if self._arrived() > before else self.fruitless + 1
            raise _TryAgainError(f"the connection broke ({type(error).__name__}: {error})") from None
        except _TryAgainError:
            self.fruitless = 1 if self._arrived() > before else self.fruitless + 1
            raise

    def _receive(self, client: httpx.Client, have: int) -> None:
        notes = self._read_notes()
        headers = {"Accept-Encoding": "identity"}
        if have and (notes.get("validator") or self.trust_any_range):
            headers["Range"] = f"bytes={have}-"
            if notes.get("validator"):
                headers["If-Range"] = notes["validator"]
        with client.stream("GET", self.url, headers=headers) as response:
            self._refuse(response)
            goes_on = response.status_code == 206 and self._continues(response, have, notes)
            if "Range" in headers and response.status_code in (206, 416) and not goes_on:
                self.forget()  # what has arrived is of another file, or more than there is: ask for all of it
                raise _TryAgainError("the file on the server has changed", wait=0.0)
            total = self._total(response)
            self.resumed = goes_on
            self.notes.write_text(json.dumps({"validator": _validator(response), "total": total}))
            self._store(response, total, have if goes_on else 0)

    def _store(self, response: httpx.Response, total: int | None, have: int) -> None:
        name = Path(httpx.URL(self.url).path).name or self.url
        with (
            self.partial.open("ab" if have else "wb") as file,
            progress(f"download {name}", total, done=have, unit="bytes") as shown,
        ):
            for chunk in response.iter_raw():  # as it arrives: nothing is lost when the connection breaks
                file.write(chunk)
                shown.advance(len(chunk))
        if total is not None and self._arrived() != total:
            raise _TryAgainError(f"{self._arrived()} bytes arrived where {total} were announced")

    def _refuse(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 429 or status >= 500:
            asked = response.headers.get("Retry-After", "")
            raise _TryAgainError(f"the server answered {status}", wait=float(asked) if asked.isdigit() else None)
        if status not in (200, 206, 416):
            reason = f"{status} {response.reason_phrase}".strip()
            raise UserError(f"{self.url}: the server answered {reason}; correct the address in data.source")

    def _continues(self, response: httpx.Response, have: int, notes: dict[str, Any]) -> bool:
        """Whether a partial answer begins where our bytes end, in the same file."""
        unit, _, extent = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = extent.partition("/")
        same_place = unit == "bytes" and span.startswith(f"{have}-")
        same_total = notes.get("total") is None or total in ("*", str(notes["total"]))
        known, said = notes.get("validator"), _validator(response)
        return same_place and same_total and (known is None or said is None or said == known)

    def _total(self, response: httpx.Response) -> int | None:
        if response.status_code == 206:  # may cover less than was asked for: the file's own length counts
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdigit() else None
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None

    def _arrived(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self.notes.read_text())
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}


def _validator(response: httpx.Response) -> str | None:
    """What If-Range may hold: a strong ETag, else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _publish(partial: Path, dest: Path) -> None:
    """Move the whole file to `dest`; across file systems it is copied beside it first."""
    try:
        partial.replace(dest)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = dest.with_name(f"{dest.name}.partial")
        try:
            shutil.copyfile(partial, beside)
            beside.replace(dest)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _disk(folder: Path, partial: Path) -> Iterator[None]:
    """Turn what the disk refuses into a mistake that its user can mend; a full disk gets its space back."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            partial.unlink(missing_ok=True)
            raise UserError(f"{error.filename or folder}: the disk is full; free space or set TRM_CACHE_DIR") from None
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); mend it or set TRM_CACHE_DIR"
        ) from None
