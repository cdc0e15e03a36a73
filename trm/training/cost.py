"""The cost of a training: a refusal beyond the memory or the disk, and the line that announces a long one."""

import resource
import shutil
import sys
from collections.abc import Mapping

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models.act import TRM
from trm.models.model_summary import flops
from trm.models.variants import VARIANTS
from trm.training.state_folder import KEPT, StateFolder
from trm.training.train_state import TrainState
from trm.utils.errors import UserError
from trm.utils.memory import check_memory, readable

VALUES_PER_POSITION = 8
"""Activations of a block that a training step keeps for the backward pass, relative to its width; at least."""
COPIES = 5
"""Float32 copies of the weights that a training keeps: weights, gradients, two moments, and their EMA."""


def check_training(
    config: ModelParams,
    meta: DatasetMeta,
    slots: int,
    train: TrainParams,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Raise `UserError` if the weights or the batch certainly exceed the memory of `device`.

    slots: sequences of the process; dtype: compute dtype.
    """
    variant, sequence = VARIANTS[config.arch], config.prefix_len + meta.seq_len
    values = (config.lma.length if config.lma.enable else sequence) * config.block_width
    blocks = variant.gradient_passes(config) * min(variant.blocks(config).values())
    # The SwiGLU layer of a block has three matrices of width times two thirds of expansion times width.
    weights = sum(variant.blocks(config).values()) * int(2 * config.expansion * config.block_width**2)
    copies = 2 if train.freeze_weights else COPIES
    check_memory(4 * weights * copies, f"model.hidden_size={config.hidden_size}", device)
    computed = min(slots, train.micro_batch_size or slots) * train.winner_takes_all
    states = slots * train.winner_takes_all * values * len(variant.states)
    kept = computed * (values * VALUES_PER_POSITION * blocks + meta.seq_len * meta.vocab_size)
    check_memory(dtype.itemsize * (states + kept), f"train.global_batch_size={train.global_batch_size}", device)


def check_disk(state: TrainState, states: StateFolder, processes: int) -> None:
    """Raise `UserError` if the disk certainly lacks the space for the saved states of this run."""
    table = state.model.puzzle_table.nbytes
    network = _size(state.model.state_dict()) - table
    # Weights, EMA weights, at least one moment of the optimizer, and the carry.
    whole = _size(state.tensors()) - table + network + processes * _size(state.carry.tensors())
    # While a state is saved; checkpoints have raw and EMA weights. The states share two tables and two checkpoints.
    needed = (KEPT + 1) * whole + 2 * table + 2 * (2 * network + table)
    saved = sum(path.stat().st_size for state in states.states() for path in state.iterdir())
    available = saved + shutil.disk_usage(states.path).free
    if needed > available:
        raise UserError(
            f"the training states need about {readable(needed)} of disk, and {states.path} has {readable(available)}; "
            "free space, or set TRM_STATE_DIR to a folder of another disk"
        )


def _size(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def training_operations(
    config: ModelParams, settings: TrainParams, meta: DatasetMeta, steps: int, completed: float = 1.0
) -> int:
    """Floating-point operations of the matrix products of a training of `steps` optimizer steps, over all processes.

    completed: fraction of the training that is counted.
    """
    total, start = 0.0, 0.0
    ends = [(part.until, part.model_dump(exclude={"until"})) for part in settings.depth_schedule]
    for end, depth in [*ends, (1.0, {})]:
        _, operations = flops(config.model_copy(update=depth), meta)
        total += max(min(end, completed) - start, 0) * operations
        start = end
    return round(total * settings.global_batch_size * settings.winner_takes_all * steps)


def announcement(model: TRM, steps: int, batch_size: int, processes: int, duration: str) -> str:
    """The line that announces `steps` further steps that are expected to take `duration`."""
    device, count = model.device.type, f"{processes} processes" if processes > 1 else ""
    if device == "cpu":
        threads = torch.get_num_threads()
        count = ", ".join(filter(None, (count, f"{threads} thread{'s' * (threads > 1)}")))
    where = f"{device} ({count})" if count else device
    memory = f"this process uses {readable(_peak_memory(model.device))}"
    return f"{steps:,} steps of {batch_size:,} examples take about {duration} on {where}; {memory}"


def _peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used, on the GPU or in the memory of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux kilobytes
