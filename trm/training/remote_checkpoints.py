"""Copies of the training state in S3, from which another machine resumes if this one is lost.

Enabled by `$TRM_STATE_DIR=s3://bucket/folder`: each copy is an artifact `<folder>/<content key>/<step>`, complete or
absent, with the files and digests of a local state (`trm.training.state_folder`). The last two are kept. A thread
uploads one copy at a time. If S3 is slow or unavailable, training continues and intermediate states are skipped; the
disk holds at most one state in addition to the local ones.
"""

import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from trm.storage import s3
from trm.storage.artifacts import intact_manifest
from trm.training.state_folder import KEPT, StateFolder, warn
from trm.utils.errors import DataError, InternalError, UserError
from trm.utils.paths import is_s3_uri

SHUTDOWN_TIMEOUT = 20.0
"""Seconds that a stopped run waits for its last upload; Kubernetes kills after 30."""
SNAPSHOT = ".copy"
"""Folder with links to the files that are uploaded."""


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
        self.failing = False
        """Whether the last upload failed."""
        self.saved_at = time.monotonic()
        """When the last upload that succeeded was started; at first, when this process started."""

    def download(self) -> None:
        """Download the newest undamaged copy if it is newer than the local states.

        Raises the errors of `trm.storage.s3`, and `DataError` if all copies are damaged and there is no local state.
        """
        states = StateFolder(self.folder)
        local = states.newest_step()
        damaged: dict[int, DataError] = {}
        while (newest := max(self._steps() - damaged.keys(), default=0)) > local:
            state = states.next_state()
            try:
                s3.download(self._copy_uri(newest), state)
                states.verify(state)
            except DataError as error:
                shutil.rmtree(state, ignore_errors=True)
                # A machine that has lost this run, and does not know it yet, may have replaced the copy by a newer one.
                if newest in self._steps():
                    damaged[newest] = error
                continue
            for path in state.glob("*.tsv"):
                shutil.copyfile(path, self.folder / path.name)
            break
        if damaged and not states.newest_step():
            raise DataError(f"{next(iter(damaged.values()))}, or delete {self.uri} to start the training again")
        for step, error in damaged.items():
            warn(f"{error}; an older state is used")
            with suppress(UserError, InternalError):  # a published copy is never replaced by another one
                s3.remove(self._copy_uri(step))

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
            retry = self._thread is None and self.failing
        if retry:
            self.save()
        with self._changed:
            ended = self._changed.wait_for(lambda: self._thread is None, SHUTDOWN_TIMEOUT)
        if not ended or self.failing:
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
        now = time.monotonic()
        try:
            self._copy()
            self.saved_at = now
        except Exception as error:  # no fault of an upload may end the training
            if not self.failing:
                print(f"states cannot be uploaded ({error}); training continues", file=sys.stderr, flush=True)
            self.failing = True
            return
        if self.failing:
            print(f"{self.uri}: uploads of states work again", file=sys.stderr, flush=True)
        self.failing = False

    def _copy(self) -> None:
        snapshot = self.folder / SNAPSHOT
        step = self.take_snapshot(snapshot)
        older = sorted(self._steps() - {step})[-KEPT:]
        # As the local states, the copies share two copies of the puzzle embedding and of an unchanged checkpoint.
        similar = self._copy_uri(older[0]) if len(older) == KEPT else None
        # The upload compares every file with the digest in its manifest.
        s3.publish(snapshot, self._copy_uri(step), similar)
        shutil.rmtree(snapshot)
        with suppress(UserError, InternalError):  # some credentials may not delete; the next upload tries again
            for older in sorted(self._steps())[:-KEPT]:
                s3.remove(self._copy_uri(older))

    def take_snapshot(self, snapshot: Path) -> int:
        """Create links to the files of the newest state, which the training may delete; returns its step."""
        states = StateFolder(self.folder)
        while True:
            (newest, *_) = states.states()
            shutil.rmtree(snapshot, ignore_errors=True)
            snapshot.mkdir()
            try:
                for path in newest.iterdir():
                    os.link(path, snapshot / path.name)
                return intact_manifest(snapshot)["step"]
            except (FileNotFoundError, DataError):
                if newest in states.states():
                    raise

    def _steps(self) -> set[int]:
        """The steps of the copies in S3."""
        return {int(name) for name in s3.published_names(self.uri) if name.isdecimal()}

    def _copy_uri(self, step: int) -> str:
        return f"{self.uri}/{step:012}"
