"""The exponential moving average (EMA) of the network's parameters, used by evaluation."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trm.models.act import TRM


def ema_copy(model: TRM) -> TRM:
    """A model in eval mode for the EMA, initialized with the weights of `model`.

    The puzzle table and the initial states are shared: they have no EMA, and the table may be large.
    """
    shared = {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


@torch.no_grad()
def update_ema(average: TRM, model: TRM, rate: float) -> None:
    """shadow = rate * shadow + (1 - rate) * weight, without bias correction."""
    update = get_ema_multi_avg_fn(rate)  # few operations for all parameters
    update(list(average.parameters()), list(model.parameters()), None)
