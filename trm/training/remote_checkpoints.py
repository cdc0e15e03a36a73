"""RemoteCheckpoints of a run's saved states in S3, from which another machine goes on when this one is taken away.

`$TRM_STATE_DIR=s3://bucket/folder` asks for them: below `<folder>/<content key>/` each copy is an artifact named by its
step, whole or absent. Copying happens beside the training, one copy at a time: while S3 is slow or away the training
goes on, the states in between are passed over, and the disk holds one state besides the newest.
"""

import os
import shutil
import sys
import threading
from pathlib import Path

from trm.storage import s3
from trm.storage.artifacts import write_manifest
from trm.utils.errors import InternalError, UserError
from trm.utils.paths import cache_folder
from trm.training.train_state import FILE, read_step

GRACE = 20.0
"""Seconds that a run which is stopped waits for its last copy; Kubernetes kills after 30."""
SNAPSHOT = "copy"


def copies_of(folder: Path) -> "RemoteCheckpoints | None":
    """The copies of the run whose state lies in `folder`, where they are asked for."""
    named = os.environ.get("TRM_STATE_DIR", "")
    return RemoteCheckpoints(f"{named.rstrip('/')}/{folder.name}", folder) if s3.is_uri(named) else None


class RemoteCheckpoints:
    """The copies of one run, whose state lies in `folder`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._wanted = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._away = False
        self._thread: threading.Thread | None = None

    def bring(self) -> None:
        """Put the newest copy in the place of an older state here. Raises `UserError` or `InternalError` as `trm.s3` does."""
        newest = max(s3.published_below(self.uri), default=None)
        file = self.folder / FILE
        if newest is None or (file.exists() and read_step(file) >= int(newest)):
            return
        brought = cache_folder() / "states" / f"{self.folder.name}.brought"
        s3.download(f"{self.uri}/{newest}", brought)
        for path in sorted(
            brought.iterdir(), key=lambda path: path.name == FILE
        ):  # the state last: it vouches for the rest
            path.replace(self.folder / path.name)
        shutil.rmtree(brought)

    def save(self) -> None:
        """Copy the state that was just saved, as soon as the copy before it is done."""
        self._wanted.set()
        if self._thread is None or not self._thread.is_alive():
            self._idle.clear()
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait a moment for the newest state's copy."""
        if not self._idle.wait(GRACE):
            print(f"{self.uri}: the last state is not copied yet; it lies in {self.folder}", file=sys.stderr)

    def _work(self) -> None:
        while self._wanted.is_set():
            self._wanted.clear()
            try:
                self._copy()
                if self._away:
                    print(f"{self.uri}: states are copied again", file=sys.stderr, flush=True)
                self._away = False
            except (UserError, InternalError, OSError) as error:
                if not self._away:
                    print(f"states are not copied ({error}); the training goes on", file=sys.stderr, flush=True)
                self._away = True
        self._idle.set()

    def _copy(self) -> None:
        snapshot = self.folder / SNAPSHOT
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir()
        # The state first: what it speaks of in the other files is there already, and they only grow or get better.
        for path in sorted(self.folder.glob("*.safetensors"), key=lambda path: path.name != FILE):
            os.link(path, snapshot / path.name)
        for path in self.folder.glob("*.tsv"):
            shutil.copyfile(path, snapshot / path.name)
        step = read_step(snapshot / FILE)
        write_manifest(snapshot, {"stage": "state", "key": self.folder.name, "step": step})
        s3.publish(snapshot, f"{self.uri}/{step:012}")
        shutil.rmtree(snapshot)
        for older in s3.published_below(self.uri):
            if int(older) < step:
                s3.remove(f"{self.uri}/{older}")
