"""The exponential moving average of the network's parameters, which evaluation and the published result use."""

import copy

import torch

from trm.models.act import TRM


def averaged_copy(model: TRM) -> TRM:
    """A model in eval mode for the average, starting at `model`'s weights; puzzle table and start vectors are shared.

    Those have no average (spec section 4), and the table may be large.
    """
    shared = {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: TRM, model: TRM, rate: float) -> None:
    """shadow = rate * shadow + (1 - rate) * weight, without bias correction."""
    for shadow, weight in zip(average.parameters(), model.parameters(), strict=True):
        shadow.lerp_(weight, 1 - rate)
