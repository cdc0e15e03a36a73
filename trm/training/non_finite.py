"""The report of a loss that is NaN or infinite: its step and process, and its batch in a file."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trm.models.act import Batch
from trm.training.checkpoint import write_tensors
from trm.training.distributed import CPU, World
from trm.utils.errors import InternalError

FILE = "non-finite-loss.safetensors"
REMEDY = "lower train.lr or raise train.lr_warmup_steps"


class NonFiniteLossError(InternalError):
    """A loss is NaN or infinite, in every process at the same place."""


def first_non_finite(losses: Mapping[int, Tensor], processes: World) -> tuple[int, int, float]:
    """Step, rank and value of the first non-finite loss.

    losses: step -> sum of the losses of this process's slots, float [].
    """
    step, value = next(((step, float(loss)) for step, loss in losses.items() if not math.isfinite(loss)), (math.inf, 0))
    device = CPU if processes.size == 1 else processes.device
    found = processes.all_gather(torch.tensor([[step, value]], dtype=torch.float64, device=device)).tolist()
    rank = min(range(len(found)), key=lambda rank: found[rank][0])
    return int(found[rank][0]), rank, found[rank][1]


def save_batch(folder: Path, batch: Batch, step: int, rank: int, loss: float) -> None:
    """Write the slots of the process with the non-finite loss to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / FILE, batch, {"non_finite_loss": str(loss), "step": step, "rank": rank})
