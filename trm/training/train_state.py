"""The training state: everything a run needs to resume exactly, and the folder it is saved in.

All randomness is a function of the seed and the step (exploration) or the epoch (data). So `step` and `position` are
the complete random state.
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
from trm.models.act import TRM, Carry
from trm.training.checkpoint import read_header, write_tensors
from trm.training.distributed import World
from trm.utils.errors import DataError, UserError
from trm.utils.paths import states_folder

FILE = "state.safetensors"
COUNTERS = ("compiled", "step", "metric_steps", "eval_step", "eval_epoch", "best_step", "seconds")
"""Numbers of the state that are saved as they are."""


@dataclass
class TrainState:
    """A training run between two steps."""

    model: TRM
    average: TRM
    """The model with the EMA weights."""
    optimizers: list[torch.optim.Optimizer]
    """The optimizers of the network, of different weights. The puzzle embedding's has no state."""
    carry: Carry
    position: StreamPosition
    """Position of the next batch in the stream of examples."""
    metric_sums: Tensor
    """Sums of losses and metrics since the last line of the log, float64 on the CPU."""
    step: int = 0
    """Optimizer steps so far."""
    compiled: bool = False
    """True: the network is compiled. Compiled code rounds differently, so the choice of the first start is kept."""
    metric_steps: int = 0
    """Optimizer steps in `metric_sums`."""
    eval_step: int = 0
    eval_epoch: int = 0
    """Step and epoch of the last evaluation on the validation groups; 0: none."""
    best_step: int = 0
    """Step of the best checkpoint; 0: none."""
    best_score: tuple[float, float] = (-1.0, -1.0)
    """Exact and cell accuracy of the best checkpoint."""
    seconds: float = 0.0
    """Training time, over all processes that resumed the run."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that all processes share: weights, EMA weights, buffers and metric sums."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.named_parameters()}
        return tensors | {"metric_sums": self.metric_sums}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The state of the optimizers, whatever they keep: `optimizer.<parameter>.<key>` -> tensor."""
        return {
            f"optimizer.{name}.{key}": value
            for name, weight in self.model.named_parameters()
            for optimizer in self.optimizers
            for key, value in optimizer.state.get(weight, {}).items()
        }

    def set_optimizer_tensor(self, name: str, value: Tensor) -> None:
        """Restore one of `optimizer_tensors`, on the device of its parameter unless it is a scalar."""
        parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
        weight = self.model.get_parameter(parameter)
        optimizer = next(each for each in self.optimizers if _has(each, weight))
        optimizer.state[weight][key] = value.to(weight.device) if value.dim() else value.clone()

    def numbers(self) -> dict[str, object]:
        """Everything else, for JSON."""
        position = [self.position.epoch, self.position.index]
        return {"position": position, "best_score": self.best_score} | {name: getattr(self, name) for name in COUNTERS}


def _has(optimizer: torch.optim.Optimizer, weight: Tensor) -> bool:
    return any(weight is each for group in optimizer.param_groups for each in group["params"])


def save_state(folder: Path, state: TrainState, logs: Sequence["TsvLog"], world: World) -> None:
    """Write the state to `folder` atomically.

    The main process writes the slots of all processes, so that any number of processes can resume.
    """
    carry = {f"carry.{name}": world.all_gather(tensor) for name, tensor in state.carry.tensors().items()}
    if not world.is_main:
        return
    # The logs first: a state never refers to lines that are not on disk.
    sizes = {log.path.name: log.sync() for log in logs}
    new = folder / f"{FILE}.new"
    write_tensors(new, state.tensors() | state.optimizer_tensors() | carry, {**state.numbers(), "logs": sizes})
    replace_durably(new, folder / FILE)


def load_state(folder: Path, state: TrainState, logs: Sequence["TsvLog"], world: World) -> bool:
    """Restore `state` and the logs from `folder`; returns False if there is no saved state.

    The main process reads the file and broadcasts it. Each process takes its part of the slots, however many processes
    saved them.
    """
    file = folder / FILE
    header, saved = (read_header(file), _read(file)) if world.is_main and file.exists() else (None, {})
    header = world.broadcast_object(header)
    if header is None:
        for log in logs if world.is_main else ():
            log.truncate(0)
        return False
    local = state.carry
    own = world.shard(world.size * len(local.steps))
    with torch.no_grad():
        carry: dict[str, Tensor] = {}
        for name, like in local.tensors().items():
            slots = like.new_empty(world.size * len(like), *like.shape[1:])
            if world.is_main:
                slots.copy_(saved[f"carry.{name}"])
            world.broadcast_(slots)
            carry[name] = slots[own].clone()
        state.carry = Carry.of(carry)
        for name, tensor in state.tensors().items():
            if world.is_main:
                tensor.copy_(saved[name])
            world.broadcast_(tensor)
        optimizer = {name: value for name, value in saved.items() if name.startswith("optimizer.")}
        shapes = world.broadcast_object({name: (value.shape, value.dtype) for name, value in optimizer.items()})
        for name, (shape, dtype) in shapes.items():
            value = optimizer[name] if world.is_main else torch.empty(shape, dtype=dtype)
            world.broadcast_(value)
            state.set_optimizer_tensor(name, value)
    state.position = StreamPosition(*header["position"])
    state.best_score = tuple(header["best_score"])
    for name in COUNTERS:
        setattr(state, name, header[name])
    for log in logs if world.is_main else ():
        log.truncate(header["logs"][log.path.name])
    return True


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: damaged state ({error}); delete {file.parent} to start again") from None


def replace_durably(new: Path, target: Path) -> None:
    """Rename `new` to `target` such that even a crash of the machine leaves a complete file."""
    _sync(new)
    new.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class TsvLog:
    """A log of tab-separated values, truncated to the length recorded in a saved state on resume."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)

    def truncate(self, size: int) -> None:
        """Remove everything after `size` bytes; 0 keeps only the header."""
        header = "\t".join(self.columns) + "\n"
        with self.path.open("ab") as file:
            file.truncate(size)
        if size == 0:
            self.path.write_text(header, encoding="utf-8")

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append a line; None becomes an empty field."""
        fields = [row[column] for column in self.columns]
        line = "\t".join(
            "" if value is None else format(value, ".8g" if isinstance(value, float) else "d") for value in fields
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def sync(self) -> int:
        """Flush the file to disk; returns its size in bytes."""
        _sync(self.path)
        return self.path.stat().st_size


def read_step(file: Path) -> int:
    """The step of a saved state."""
    return int(read_header(file)["step"])


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
