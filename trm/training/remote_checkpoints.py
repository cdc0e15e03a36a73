"""Copies of the training state in S3, from which another machine resumes if this one is lost.

Enabled by `$TRM_STATE_DIR=s3://bucket/folder`: each copy is an artifact `<folder>/<content key>/<step>`, complete or
absent. A thread uploads one copy at a time. If S3 is slow or unavailable, training continues and intermediate states
are skipped; the disk holds at most one state in addition to the newest.
"""

import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path

from trm.storage import s3
from trm.storage.artifacts import write_manifest
from trm.training.train_state import FILE, read_step
from trm.utils.errors import DataError, InternalError, UserError
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
        self._changed = threading.Condition()
        """Protects the following two attributes, so that a request is never left to a thread that is about to end."""
        self._requested = False
        self._thread: threading.Thread | None = None
        self._failing = False

    def download(self) -> None:
        """Replace an older local state by the newest copy. Raises the errors of `trm.storage.s3`."""
        file = self.folder / FILE
        downloaded = cache_folder() / "states" / f"{self.folder.name}.download"
        while True:
            newest = max(self._steps(), default=0)
            if newest == 0 or (file.exists() and read_step(file) >= newest):
                return
            try:
                s3.download(self._copy_uri(newest), downloaded)
                break
            except DataError:
                # A machine that has lost this run, and does not know it yet, may have replaced the copy by a newer one.
                if newest in self._steps():
                    raise
        # The state last: it refers to the other files.
        for path in sorted(downloaded.iterdir(), key=lambda path: path.name == FILE):
            path.replace(self.folder / path.name)
        shutil.rmtree(downloaded)

    def save(self) -> None:
        """Upload the state just saved, as soon as the previous upload is finished."""
        with self._changed:
            self._requested = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Wait for the upload of the newest state, for a limited time. An upload that has failed is tried once more."""
        with self._changed:
            retry = self._thread is None and self._failing
        if retry:
            self.save()
        with self._changed:
            ended = self._changed.wait_for(lambda: self._thread is None, SHUTDOWN_TIMEOUT)
        if not ended or self._failing:
            print(f"{self.uri}: the last state is not uploaded; it is in {self.folder}", file=sys.stderr)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._requested:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._requested = False
            self._try_copy()

    def _try_copy(self) -> None:
        try:
            self._copy()
        except Exception as error:  # no fault of an upload may end the training
            if not self._failing:
                print(f"states cannot be uploaded ({error}); training continues", file=sys.stderr, flush=True)
            self._failing = True
            return
        if self._failing:
            print(f"{self.uri}: uploads of states work again", file=sys.stderr, flush=True)
        self._failing = False

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
        s3.publish(snapshot, self._copy_uri(step))
        shutil.rmtree(snapshot)
        with suppress(UserError, InternalError):  # some credentials may not delete; the next upload tries again
            for older in self._steps():
                if older < step:
                    s3.remove(self._copy_uri(older))

    def _steps(self) -> list[int]:
        """The steps of the copies in S3."""
        return [int(name) for name in s3.published_names(self.uri) if name.isdecimal()]

    def _copy_uri(self, step: int) -> str:
        return f"{self.uri}/{step:012}"
