"""The folder of a run's training states. A damaged state is detected, and the state before it is used.

    $TRM_STATE_DIR/<content key>/
        state-7/                     a state: an artifact, which is complete or absent
            state.safetensors        weights, optimizers, carry, position (`trm.training.train_state`)
            puzzle_table.safetensors the puzzle embedding of this or an earlier state; absent without one
            checkpoint.safetensors   the best checkpoint so far; absent before the first one
            train.tsv validation.tsv the logs so far
            manifest.json            key, step, and the digest of every file and of itself
        state-8/                     the next state
        checkpoint.safetensors       a better checkpoint, until the next state contains it
        train.tsv validation.tsv     copies of the logs for readers, with the lines since the last state
        lock holder.pid              the process that trains

The number in a name counts the saved states. A state is written to a hidden folder, flushed to the disk and renamed;
then all states but it and the one before it are deleted. So at every moment, also after a crash of the machine, the
folder has a complete state once one was saved.

A large puzzle embedding is not written with every state: `state.safetensors` contains the rows that have changed since
`puzzle_table.safetensors` was written. This file and an unchanged checkpoint have two copies, which the states share by
turns, as hard links. So every state has all its files, and damage of one copy leaves a state with the other.

The content key covers the source of this package: another version of it uses another folder and never reads a layout
that it does not know.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from trm.storage.artifacts import MANIFEST, copy_verified, damages, file_entry, intact_manifest, write_manifest
from trm.training import checkpoint
from trm.utils.errors import DataError, UserError
from trm.utils.paths import states_folder

FILE, TABLE = "state.safetensors", "puzzle_table.safetensors"
STAGE = "state"
"""The value of `stage` in the manifest of a state."""
KEPT = 2
"""Number of states that are kept."""
Manifest = dict[str, Any]
Read = TypeVar("Read")


class StateFolder:
    """The states of a run, and what the next state will contain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[tuple[Path, Manifest]] = []
        """The last states that this process has loaded or saved, oldest first."""
        self._checkpoint: Manifest | None = None
        """The manifest entry of a checkpoint that no state contains yet."""

    def states(self) -> list[Path]:
        """The folders of the states, newest first."""
        found = [path for path in self.path.glob("state-*") if re.fullmatch(r"state-\d+", path.name)]
        return sorted(found, key=_number, reverse=True)

    def next_state(self) -> Path:
        """The folder of the next state."""
        return self.path / f"state-{max(map(_number, self.states()), default=0) + 1}"

    def verify(self, state: Path) -> Manifest:
        """The manifest of a state, after a check of every digest. Raises `DataError` for a damaged state."""
        try:
            manifest = intact_manifest(state)
            for problem in damages(state, manifest["files"]):
                raise DataError(problem)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None
        belongs = (manifest.get("stage"), manifest.get("key")) == (STAGE, self.path.absolute().name)
        if not belongs or FILE not in manifest["files"] or type(manifest.get("step")) is not int:
            raise DataError(f"{state / MANIFEST}: not the manifest of a state of this run")
        return manifest

    def load(self, read: Callable[[Path, Manifest], Read]) -> Read | None:
        """Return `read(state, manifest)` of the newest undamaged state; None if no state was saved.

        read: raises `DataError` for a damaged state. Newer states that are damaged are reported by name. Raises
        `DataError` if all states are damaged.
        """
        problems: list[str] = []
        for state in self.states():
            try:
                manifest = self.verify(state)
                result = read(state, manifest)
            except DataError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warn(f"{problem}; the state before it is used")
            self._kept = [(state, manifest)]
            return result
        if problems:
            raise DataError(f"{'; '.join(problems)}; delete {self.path} to start the training again")
        return None

    def newest_step(self) -> int:
        """The step of the newest undamaged state; 0: there is none."""
        for state in self.states():
            with suppress(DataError):
                return self.verify(state)["step"]
        return 0

    def damaged_logs(self) -> Iterator[str]:
        """The path of each log in the folder that does not continue that of the newest undamaged state."""
        for state in self.states():
            with suppress(DataError):
                for name in self.verify(state)["files"]:
                    path = self.path / name
                    if path.suffix == ".tsv" and not is_continued((state / name).read_bytes(), path):
                        yield f"{path}: differs from the log in {state}"
                return

    def put_checkpoint(self, write: Callable[[Path], object]) -> None:
        """Store the best checkpoint, which `write(path)` writes, for this and all later states."""
        path = self.path / checkpoint.FILE
        path.unlink(missing_ok=True)  # a state may contain the same file
        write(path)
        self._checkpoint = file_entry(path)

    def save(
        self,
        write: Callable[[Path], object],
        logs: Mapping[str, bytes],
        step: int,
        write_table: Callable[[Path], object] | None = None,
    ) -> None:
        """Save a state durably, and delete all states but it and the one before it.

        write: writes the tensors to a path. logs: name -> contents of each log. write_table: writes the puzzle
        embedding; None: the state has that of the state before it, if there is one.
        """
        state, new = self.next_state(), self.path / ".new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            write(new / FILE)
            known = {name: _entry(content) for name, content in logs.items()}
            for name, content in logs.items():
                (new / name).write_bytes(content)
            if write_table is not None:
                write_table(new / TABLE)
            else:
                known |= self._share(TABLE, new)
            known |= self._add_checkpoint(new)
            write_manifest(new, {"stage": STAGE, "key": self.path.name, "step": step}, known)
            for path in (*new.iterdir(), new):
                _sync(path)
            new.rename(state)
        except BaseException:  # such as a full disk
            shutil.rmtree(new, ignore_errors=True)
            raise
        _sync(self.path)
        self._kept = [*self._kept[1 - KEPT :], (state, intact_manifest(state))]
        self._checkpoint = None
        (self.path / checkpoint.FILE).unlink(missing_ok=True)
        for path in set(self.states()) - {path for path, _ in self._kept}:
            self._delete(path)

    def publish(self, out: Path) -> None:
        """Copy the best checkpoint and the logs of the newest state to `out`, with their digests checked."""
        state, manifest = self._kept[-1]
        for name, entry in manifest["files"].items():
            if name not in (FILE, TABLE):
                _copy(state / name, out / name, entry)

    def _add_checkpoint(self, new: Path) -> Mapping[str, Manifest]:
        """Add the best checkpoint to the folder of a new state; returns its manifest entry by name."""
        if self._checkpoint is None:
            return self._share(checkpoint.FILE, new)
        source, target = (folder / checkpoint.FILE for folder in (self.path, new))
        if not _link(source, target):
            _copy(source, target, self._checkpoint)
        return {checkpoint.FILE: self._checkpoint}

    def _share(self, name: str, new: Path) -> Mapping[str, Manifest]:
        """Add a file of the last state to the folder of a new one; returns its manifest entry by name.

        It is a link to the file of the state before the last, or a copy.
        """
        entries = [manifest["files"].get(name) for _, manifest in self._kept]
        if not entries or entries[-1] is None:
            return {}
        is_in_both = len(entries) == KEPT and entries[0] == entries[-1]
        if not is_in_both or not _link(self._kept[0][0] / name, new / name):
            _copy(self._kept[-1][0] / name, new / name, entries[-1])
        return {name: entries[-1]}

    def _delete(self, state: Path) -> None:
        # Renamed first, so that a deletion that is cut short leaves no state with missing files.
        old = self.path / ".old"
        shutil.rmtree(old, ignore_errors=True)
        state.rename(old)
        shutil.rmtree(old)


def is_continued(content: bytes | bytearray, log: Path) -> bool:
    """Whether the file `log` starts with `content` and goes on with text.

    A crash of the machine may leave NUL bytes at its end.
    """
    there = log.read_bytes() if log.is_file() else b""
    return there.startswith(content) and b"\0" not in there


def warn(message: str) -> None:
    """Print a warning of the stage `train`."""
    print(f"train: warning: {message}", file=sys.stderr, flush=True)


def _number(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


def _entry(content: bytes) -> Manifest:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _link(source: Path, target: Path) -> bool:
    """Create a hard link; returns False if that is impossible, as in some file systems."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path, entry: Manifest) -> None:
    try:
        copy_verified(source, target, entry)
    except DataError as error:
        raise DataError(f"{error}; run the same command again, it resumes from an undamaged state") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def run_folder(key: str) -> Iterator[Path]:
    """The state folder of the run with this content key, locked by this process.

    Raises `UserError` with the pid of the process that holds the lock. The lock ends with its process.
    """
    folder = states_folder() / key
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "holder.pid"
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with suppress(OSError):
            pid = holder.read_text()
            raise UserError(
                f"process {pid} is already training this experiment; wait for it, or stop it (kill {pid})"
            ) from None
        raise UserError(f"another process is already training this experiment (state in {folder})") from None
    try:
        holder.write_text(str(os.getpid()))
        yield folder
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
