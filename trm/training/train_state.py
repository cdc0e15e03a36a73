"""What a killed run needs to go on as if nothing had happened, and the folder in which it lies.

Everything random is a pure function of the seed and the step (exploration) or the epoch (data), so `step` and `place`
are the whole random state.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trm.data.batches import StreamPosition
from trm.training.distributed import World
from trm.utils.errors import DataError, UserError
from trm.utils.paths import states_folder
from trm.models.act import TRM, Carry
from trm.training.checkpoint import read_header, write_tensors
from trm.training.optimizers import fresh_moments

FILE = "state.safetensors"


@dataclass
class TrainState:
    """A training run between two steps."""

    model: TRM
    average: TRM
    optimizer: torch.optim.Optimizer
    carry: Carry
    place: StreamPosition
    """Where in the stream of examples the next batch starts."""
    window: Tensor
    """Sums of losses and metrics since the last line of the log, float64 on the CPU."""
    step: int = 0
    """Updates made."""
    window_steps: int = 0
    scored_step: int = 0
    scored_epoch: int = 0
    """When the average was last scored on the validation groups; 0: never yet."""
    best_step: int = 0
    """Where the best checkpoint so far was taken; 0: nowhere yet."""
    best_score: tuple[float, float] = (-1.0, -1.0)
    """Its exact and cell accuracy."""
    seconds: float = 0.0
    """Time spent in training, over all the processes that had a part in it."""

    def tensors(self) -> dict[str, Tensor]:
        """What every process has alike: every tensor but the carry; the optimiser's moments are made if need be."""
        named = dict(self.model.named_parameters())
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.named_parameters()}
        for name, weight in named.items():
            moments = self.optimizer.state[weight]
            if not moments:
                moments.update(fresh_moments(weight))
            tensors |= {f"optimizer.{name}.{moment}": value for moment, value in moments.items()}
        return tensors | {"window": self.window}

    def numbers(self) -> dict[str, object]:
        """Everything else, ready for JSON."""
        return {
            "place": [self.place.epoch, self.place.position],
            "step": self.step,
            "window_steps": self.window_steps,
            "scored_step": self.scored_step,
            "scored_epoch": self.scored_epoch,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "seconds": self.seconds,
        }


def save_state(folder: Path, state: TrainState, logs: Sequence["TsvLog"], world: World) -> None:
    """Write the state beside the old one, then put it in its place; a kill leaves the one or the other.

    The leader writes, and its file holds the slots of all processes: as many or as few others can go on from it.
    """
    carry = {f"carry.{name}": world.join(tensor) for name, tensor in state.carry.tensors().items()}
    if not world.leads:
        return
    # The logs first: a state never speaks of lines that are not on disk.
    sizes = {log.path.name: log.sync() for log in logs}
    beside = folder / f"{FILE}.new"
    write_tensors(beside, {**state.tensors(), **carry}, {**state.numbers(), "logs": sizes})
    replace_durably(beside, folder / FILE)


def load_state(folder: Path, state: TrainState, logs: Sequence["TsvLog"], world: World) -> bool:
    """Bring a fresh `state` and the logs to where the saved state stood; False where there is none.

    The leader reads `folder` and tells the others; each takes its share of the slots, however many wrote them.
    """
    file = folder / FILE
    header, saved = (read_header(file), _read(file)) if world.leads and file.exists() else (None, {})
    header = world.say(header)
    if header is None:
        for log in logs if world.leads else ():
            log.cut(0)
        return False
    local = state.carry
    mine = world.share(world.size * len(local.steps))
    with torch.no_grad():
        carry: dict[str, Tensor] = {}
        for name, like in local.tensors().items():
            whole = like.new_empty(world.size * len(like), *like.shape[1:])
            if world.leads:
                whole.copy_(saved[f"carry.{name}"])
            world.copy_from_leader(whole)
            carry[name] = whole[mine].clone()
        state.carry = Carry.of(carry)
        for name, tensor in state.tensors().items():
            if world.leads:
                tensor.copy_(saved[name])
            world.copy_from_leader(tensor)
    state.place = StreamPosition(*header["place"])
    state.best_score = tuple(header["best_score"])
    for name in ("step", "window_steps", "scored_step", "scored_epoch", "best_step", "seconds"):
        setattr(state, name, header[name])
    for log in logs if world.leads else ():
        log.cut(header["logs"][log.path.name])
    return True


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: a broken state ({error}); delete {file.parent} to start again") from None


def replace_durably(beside: Path, target: Path) -> None:
    """Rename `beside` to `target` so that a crash of the machine, too, leaves a whole file."""
    _sync(beside)
    beside.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class TsvLog:
    """A growing table of tab-separated values, cut back to the length a saved state knows of."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)

    def cut(self, size: int) -> None:
        """Drop everything after `size` bytes; 0 leaves the header alone."""
        header = "\t".join(self.columns) + "\n"
        with self.path.open("ab") as file:
            file.truncate(size)
        if size == 0:
            self.path.write_text(header, encoding="utf-8")

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append one line; None is an empty field."""
        fields = [row[column] for column in self.columns]
        line = "\t".join(
            "" if value is None else format(value, ".8g" if isinstance(value, float) else "d") for value in fields
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def sync(self) -> int:
        """Put the lines on the disk; returns their bytes."""
        _sync(self.path)
        return self.path.stat().st_size


def read_step(file: Path) -> int:
    """The step of a saved state."""
    return int(read_header(file)["step"])


@contextmanager
def run_folder(key: str) -> Iterator[Path]:
    """The state folder of the run with this content key, held by this process alone.

    Raises `UserError` naming the holder's pid while another process has it. The lock ends with its process.
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
                f"process {pid} is training this very experiment; wait for it, or stop it (kill {pid})"
            ) from None
        raise UserError(f"another process is training this very experiment (state in {folder})") from None
    try:
        holder.write_text(str(os.getpid()))
        yield folder
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
