"""The training state: everything a run needs to resume exactly. `trm.training.state_folder` keeps it on the disk.

All randomness is a function of the seed and the step (exploration) or the epoch (data). So `step` and `position` are
the complete random state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trm.data.batches import StreamPosition
from trm.models.act import TRM, Carry
from trm.training.checkpoint import copy_to_host, read_header, write_tensors
from trm.training.distributed import World
from trm.training.optimizers import Optimizer
from trm.training.state_folder import FILE, TABLE, StateFolder, is_continued, warn
from trm.utils.errors import DataError
from trm.utils.safetensors_errors import os_errors

COUNTERS: dict[str, Any] = {
    "compiled": bool,
    "step": int,
    "metric_steps": int,
    "eval_step": int,
    "eval_epoch": int,
    "best_step": int,
    "seconds": float,
}
"""Numbers of the state that are saved as they are, and their types."""
TABLE_TENSOR = "model.puzzle_table"
CHANGED_ROWS, CHANGED_VALUES = "changed_rows", "changed_values"
"""Tensors of a state next to a table: the rows that differ from it, int64 [k], and their values, float32 [k, dim]."""


@dataclass
class TrainState:
    """A training run between two steps."""

    model: TRM
    average: TRM
    """The model with the EMA weights."""
    optimizers: list[Optimizer]
    """The optimizers of the network, of different weights. The puzzle embedding's has no state."""
    carry: Carry
    position: StreamPosition
    """Position of the next batch in the stream of examples."""
    changed_rows: Tensor
    """Rows of the puzzle embedding that have changed since the last saved table, bool [N], in the main process. All of
    them before the first one."""
    metric_sums: Tensor
    """Sums of losses and metrics since the last line of the log, float64 on the CPU."""
    step: int = 0
    """Batches so far: optimizer steps and skipped batches."""
    compiled: bool = False
    """True: the network is compiled. Compiled code rounds differently, so the choice of the first start is kept."""
    metric_steps: int = 0
    """Optimizer steps in `metric_sums`."""
    skipped_batches: tuple[int, ...] = ()
    """Steps whose batch is skipped, because its loss or gradient was not finite (`train.rollback_on_nonfinite`)."""
    eval_step: int = 0
    eval_epoch: int = 0
    """Step and epoch of the last evaluation on the validation groups; 0: none."""
    best_step: int = 0
    """Step of the best checkpoint; 0: none."""
    best_score: tuple[float, float] = (-1.0, -1.0)
    """Exact and cell accuracy of the best checkpoint."""
    seconds: float = 0.0
    """Training time, over all processes that resumed the run."""
    own_losses: dict[int, Tensor] = field(default_factory=dict)
    """Step -> sum of the losses of this process's slots, and NaN instead of 0 if a checked gradient was not finite;
    float [2]; since the last check. Not saved."""

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
        others = {"position": position, "best_score": self.best_score, "skipped_batches": self.skipped_batches}
        return others | {name: getattr(self, name) for name in COUNTERS}


def _has(optimizer: Optimizer, weight: Tensor) -> bool:
    return any(weight is each for group in optimizer.param_groups for each in group["params"])


def snapshot(state: TrainState, logs: Sequence["TsvLog"], world: World) -> Callable[[StateFolder], None] | None:
    """A function that saves the state and the logs as they are now, in the main process; None in the others.

    The main process copies the slots of all processes, so that any number of processes can resume. The copies are in
    the memory of the machine: the training may go on while the function runs. Of the puzzle embedding it copies the
    rows that have changed since the last saved table, or all of them if these are more than half.
    """
    carry = {f"carry.{name}": world.all_gather(tensor) for name, tensor in state.carry.tensors().items()}
    if not world.is_main:
        return None
    shared, write_table = state.tensors(), None
    changed: dict[str, Tensor] = {}
    if state.model.puzzle_table.numel():
        table, rows = shared.pop(TABLE_TENSOR), state.changed_rows.nonzero().flatten()
        if 2 * len(rows) > len(table):
            whole, rows = copy_to_host({TABLE_TENSOR: table}), rows[:0]
            write_table = partial(write_tensors, tensors=whole, header={"step": state.step})
            state.changed_rows.zero_()
        changed = {CHANGED_ROWS: rows.cpu(), CHANGED_VALUES: table[rows].cpu()}  # new tensors already
    tensors = copy_to_host(shared | state.optimizer_tensors() | carry) | changed
    contents, step, numbers = {log.path.name: bytes(log.content) for log in logs}, state.step, state.numbers()
    return lambda states: states.save(lambda path: write_tensors(path, tensors, numbers), contents, step, write_table)


def load_state(states: StateFolder, state: TrainState, logs: Sequence["TsvLog"], world: World) -> bool:
    """Restore `state` and the logs from the newest undamaged state; returns False if no state was saved.

    The main process reads the file and broadcasts it. Each process takes its part of the slots, however many processes
    saved them. Raises `DataError` if all saved states are damaged.
    """
    found: _Saved | None = None
    if world.is_main:
        found = states.load(lambda folder, manifest: _read(folder, manifest, state, logs, world))
        for log in logs:
            log.restore(found.logs[log.path.name] if found else b"")
    numbers, saved = world.broadcast_object(found and found.numbers), found.tensors if found else {}
    if numbers is None:
        return False
    own = world.shard(world.size * len(state.carry.steps))
    with torch.no_grad():
        carry: dict[str, Tensor] = {}
        for name, like in state.carry.tensors().items():
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
        for each in state.optimizers:
            each.state.clear()  # a state of step 0 has none
        for name, (shape, dtype) in shapes.items():
            value = optimizer[name] if world.is_main else torch.empty(shape, dtype=dtype)
            world.broadcast_(value)
            state.set_optimizer_tensor(name, value)
    if world.is_main and CHANGED_ROWS in saved:
        state.changed_rows.zero_()
        state.changed_rows[saved[CHANGED_ROWS]] = True
    state.position = StreamPosition(*numbers["position"])
    state.best_score = tuple(numbers["best_score"])
    state.skipped_batches = tuple(numbers["skipped_batches"])
    state.own_losses.clear()
    for name in COUNTERS:
        setattr(state, name, numbers[name])
    return True


@dataclass(frozen=True)
class _Saved:
    """A saved state in memory."""

    numbers: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    logs: Mapping[str, bytes]
    """Name -> contents."""


def _read(
    folder: Path, manifest: Mapping[str, Any], state: TrainState, logs: Sequence["TsvLog"], world: World
) -> _Saved:
    """Read the state in `folder`, whose files have their digests. Raises `DataError` if it does not fit to `state`."""
    file = folder / FILE
    numbers = _read_numbers(file)
    if numbers["step"] != manifest["step"]:
        raise DataError(f"{file}: is of step {numbers['step']}, its manifest of step {manifest['step']}")
    tensors = _load(file)
    if TABLE in manifest["files"]:
        tensors |= _load(folder / TABLE)
        _apply_changes(tensors, file)
    shapes = {name: tensor.shape for name, tensor in state.tensors().items()}
    for name, tensor in state.carry.tensors().items():
        shapes[f"carry.{name}"] = torch.Size((world.size * len(tensor), *tensor.shape[1:]))
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            raise DataError(f"{file}: has no tensor {name} of shape {tuple(shape)}")
    for log in logs:
        if log.path.name not in manifest["files"]:
            raise DataError(f"{folder / log.path.name}: is missing")
    return _Saved(numbers, tensors, {log.path.name: (folder / log.path.name).read_bytes() for log in logs})


def _load(file: Path) -> dict[str, Tensor]:
    try:
        with os_errors(file):
            return load_file(file)
    except SafetensorError as error:
        raise DataError(f"{file}: damaged state ({error})") from None


def _apply_changes(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy the changed rows of a state to its table. Raises `DataError` if they do not fit to it."""
    try:
        table, rows, values = (tensors[name] for name in (TABLE_TENSOR, CHANGED_ROWS, CHANGED_VALUES))
        table.index_copy_(0, rows, values)
    except (KeyError, IndexError, RuntimeError) as error:
        raise DataError(f"{file}: its changed rows do not fit to {TABLE} ({error})") from None


def _read_numbers(file: Path) -> dict[str, Any]:
    """The numbers in the header of a saved state. Raises `DataError` if one is missing or has another type."""
    try:
        numbers = read_header(file)
    except DataError:
        numbers = None
    if not isinstance(numbers, dict):
        raise DataError(f"{file}: has no header of a training state")
    for name, kind in (COUNTERS | {"position": [int, int], "best_score": [float, float]}).items():
        if not _is_of_type(numbers.get(name), kind):
            raise DataError(f"{file}: its header has no valid {name}")
    skipped = numbers.get("skipped_batches")
    if not isinstance(skipped, list) or any(type(step) is not int for step in skipped):
        raise DataError(f"{file}: its header has no valid skipped_batches")
    return numbers


def _is_of_type(value: object, kind: object) -> bool:
    """Whether `value` has the type `kind`; a list of types is that of a list."""
    if isinstance(kind, list):
        return isinstance(value, list) and list(map(type, value)) == kind
    return type(value) is kind


class TsvLog:
    """A log of tab-separated values. A saved state contains it; its file is a copy for readers."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.content = bytearray()
        """The lines so far, UTF-8."""

    def restore(self, content: bytes) -> None:
        """Continue after the lines `content` of a saved state; empty: start a new log."""
        self.content = bytearray(content or ("\t".join(self.columns) + "\n").encode())
        if is_continued(self.content, self.path):
            with self.path.open("ab") as file:
                file.truncate(len(self.content))
            return
        if content:
            warn(f"{self.path}: differs from the log in the saved state, which replaces it")
        self.path.write_bytes(self.content)

    def add(self, row: Mapping[str, float | int | None]) -> None:
        """Append a line; None becomes an empty field."""
        fields = [row[column] for column in self.columns]
        text = "\t".join(
            "" if value is None else format(value, ".8g" if isinstance(value, float) else "d") for value in fields
        )
        line = f"{text}\n".encode()
        self.content += line
        with self.path.open("ab") as file:
            file.write(line)
