"""The report of a loss or gradient that is NaN or infinite: its step and process, and its batch in a file."""

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from trm.models.act import Batch
from trm.training.checkpoint import write_tensors
from trm.training.distributed import CPU, World
from trm.utils.errors import InternalError

FILE = "non-finite-loss-{step}.safetensors"
REMEDY = "lower train.lr or raise train.lr_warmup_steps"
MOST_CONSECUTIVE = 10
"""Consecutive batches that `train.rollback_on_nonfinite` skips at most."""


class NonFiniteLossError(InternalError):
    """A loss or gradient is NaN or infinite; raised in every process at the same place."""


def first_non_finite(losses: Mapping[int, Tensor], processes: World) -> tuple[int, int, float]:
    """Step, rank and value of the first non-finite loss; a finite value if only its gradient is not.

    losses: step -> sum of the losses of this process's slots and result of `gradient_check`, float [2].
    """
    bad = ((step, float(values[0])) for step, values in losses.items() if not values.isfinite().all())
    step, value = next(bad, (math.inf, 0.0))
    device = CPU if processes.size == 1 else processes.device
    found = processes.all_gather(torch.tensor([[step, value]], dtype=torch.float64, device=device)).tolist()
    # A loss that is not finite spoils the gradient of every process.
    rank = min(range(len(found)), key=lambda rank: (found[rank][0], math.isfinite(found[rank][1])))
    return int(found[rank][0]), rank, found[rank][1]


def gradient_check(gradients: Iterable[Tensor]) -> Tensor:
    """0 if every gradient is finite, NaN if one is not; float [], on the device of the gradients."""
    finite = [gradient.isfinite().all() for gradient in gradients]
    return torch.where(torch.stack(finite).all(), 0.0, math.nan)


def consecutive(step: int, skipped: Collection[int]) -> int:
    """The number of consecutive skipped batches if that of `step` is skipped, too."""
    count = 1
    while step - count in skipped:
        count += 1
    return count


def save_batch(path: Path, batch: Batch, step: int, rank: int, loss: float) -> None:
    """Write the slots of the process with the non-finite loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, batch, {"non_finite_loss": str(loss), "step": step, "rank": rank})
