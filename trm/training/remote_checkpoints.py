"""Copies of the training state in S3, from which another machine resumes if this one is lost.

Enabled by `$TRM_STATE_DIR=s3://bucket/folder`: each copy is an artifact `<folder>/<content key>/<step>`, complete or
absent. A thread uploads one copy at a time. If S3 is slow or unavailable, training continues and intermediate states
are skipped; the disk holds at most one state in addition to the newest.
"""

import os
import shutil
import sys
import threading
from pathlib import Path

from trm.storage import s3
from trm.storage.artifacts import write_manifest
from trm.training.train_state import FILE, read_step
from trm.utils.errors import InternalError, UserError
from trm.utils.paths import cache_folder, is_s3_uri

SHUTDOWN_TIMEOUT = 20.0
"""Seconds that a stopped run waits for its last upload; Kubernetes kills after 30."""
SNAPSHOT = "copy"


def remote_checkpoints(folder: Path) -> "RemoteCheckpoints | None":
    """The remote copies of the run whose state is in `folder`; None if they are disabled."""
    root = os.environ.get("TRM_STATE_DIR", "")
    return RemoteCheckpoints(f"{root.rstrip('/')}/{folder.name}", folder) if is_s3_uri(root) else None


class RemoteCheckpoints:
    """The remote copies of a run whose state is in `folder`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.folder = uri, folder
        self._requested = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._failing = False
        self._thread: threading.Thread | None = None

    def download(self) -> None:
        """Replace an older local state by the newest copy. Raises the errors of `trm.storage.s3`."""
        newest = max(s3.published_names(self.uri), default=None)
        file = self.folder / FILE
        if newest is None or (file.exists() and read_step(file) >= int(newest)):
            return
        downloaded = cache_folder() / "states" / f"{self.folder.name}.download"
        s3.download(f"{self.uri}/{newest}", downloaded)
        # The state last: it refers to the other files.
        for path in sorted(downloaded.iterdir(), key=lambda path: path.name == FILE):
            path.replace(self.folder / path.name)
        shutil.rmtree(downloaded)

    def save(self) -> None:
        """Upload the state just saved, as soon as the previous upload is finished."""
        self._requested.set()
        if self._thread is None or not self._thread.is_alive():
            self._idle.clear()
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait for the upload of the newest state, for a limited time."""
        if not self._idle.wait(SHUTDOWN_TIMEOUT):
            print(f"{self.uri}: the last state is not uploaded; it is in {self.folder}", file=sys.stderr)

    def _work(self) -> None:
        while self._requested.is_set():
            self._requested.clear()
            try:
                self._copy()
                if self._failing:
                    print(f"{self.uri}: uploads of states work again", file=sys.stderr, flush=True)
                self._failing = False
            except (UserError, InternalError, OSError) as error:
                if not self._failing:
                    print(f"states cannot be uploaded ({error}); training continues", file=sys.stderr, flush=True)
                self._failing = True
        self._idle.set()

    def _copy(self) -> None:
        snapshot = self.folder / SNAPSHOT
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir()
        # The state first: what it refers to in the other files is already there, and those only grow or improve.
        for path in sorted(self.folder.glob("*.safetensors"), key=lambda path: path.name != FILE):
            os.link(path, snapshot / path.name)
        for path in self.folder.glob("*.tsv"):
            shutil.copyfile(path, snapshot / path.name)
        step = read_step(snapshot / FILE)
        write_manifest(snapshot, {"stage": "state", "key": self.folder.name, "step": step})
        s3.publish(snapshot, f"{self.uri}/{step:012}")
        shutil.rmtree(snapshot)
        for older in s3.published_names(self.uri):
            if int(older) < step:
                s3.remove(f"{self.uri}/{older}")
