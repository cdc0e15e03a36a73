"""The champion of a dataset: `<root>/champions/<dataset>/champion.json` names the model that a server answers with.

`python -m pipeline promote` replaces this file (docs/retraining.md). A server that follows it loads the new model in
the background, and answers with the old one until then.
"""

import json
import logging
import re
import threading
from collections.abc import Callable

from trm.storage.s3 import artifact_uri
from trm.storage.s3_client import NotFoundError, Store
from trm.utils.errors import DataError, InternalError, UserError
from trm.utils.file_formats import printable, shorten

LOG = logging.getLogger(__name__)
_FOLDER = re.compile(r"(?P<root>s3://[^/\s]+(/[^/\s]+)*)/champions/(?P<dataset>[\w.-]+)/?")
_KEY = re.compile(r"[0-9a-f]{64}")


def is_champion(location: str) -> bool:
    """Whether `location` is the folder of a champion, `<root>/champions/<dataset>`."""
    return _FOLDER.fullmatch(location) is not None


def champion_model(location: str) -> str:
    """The URI of the model of the champion at `location`.

    Raises `DataError` if there is no champion or its file is damaged, `UserError` and `InternalError` as S3 requests.
    """
    match = _FOLDER.fullmatch(location)
    assert match is not None
    try:
        content = json.loads(Store(location.rstrip("/")).get("champion.json"))
        key = content["keys"]["train"]
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError("keys.train is not a content key")
    except NotFoundError:
        raise DataError(f"{location}: no champion; promote a result with `python -m pipeline promote`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{location}/champion.json: damaged ({error}); restore it with `rollback --to N`") from None
    return artifact_uri(match["root"], "train", key)


class Follower:
    """A thread that reads the champion at `location` every `interval` seconds, and calls `load` with a new model's URI.

    A failure is logged in one line; the next reading repeats the attempt.
    """

    def __init__(self, location: str, current: str, load: Callable[[str], None], interval: float) -> None:
        self._location, self._current, self._load, self._interval = location, current, load, interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                found = champion_model(self._location)
                if found != self._current:
                    self._load(found)
                    self._current = found
            except (UserError, InternalError) as error:
                LOG.warning("the previous model stays: %s", printable(shorten(str(error))))
