"""Losses and gradients that are not finite at chosen steps; also a worker of torchrun that trains with them.

    python -m tests.training.poison PARAMS DATASET FOLDER RANK STEP...

FOLDER/model-RANK: the output of each process. RANK: the process whose loss is NaN at the steps.
"""

import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

import trm.training.step as one_step
import trm.training.trainer as loop
from trm.stages.params import load_params
from trm.training.losses import Losses
from trm.utils.launch import rank


def poison(
    patch: pytest.MonkeyPatch, steps: Collection[int], gradient: bool = False, before: Callable[[int], None] = print
) -> None:
    """Make the loss NaN in each of these steps, or only its gradient. before: called with the number of each step."""
    real_loss, real_step = one_step.supervision_loss, loop.train_step
    current = [0]

    def poisoned_step(state: Any, *rest: Any) -> object:  # noqa: ANN401 - the arguments of `train_step`
        current[0] = state.step + 1
        before(current[0])
        return real_step(state, *rest)

    def poisoned_loss(*args: Any, **options: Any) -> Losses:  # noqa: ANN401
        losses = real_loss(*args, **options)
        if current[0] not in steps:
            return losses
        if gradient:  # the square root of 0 has an infinite derivative
            return Losses(losses.total + 0 * (losses.total - losses.total.detach()).sqrt(), losses.sums)
        return Losses(losses.total * math.nan, losses.sums * math.nan)

    patch.setattr(loop, "train_step", poisoned_step)
    patch.setattr(one_step, "supervision_loss", poisoned_loss)


def skip(patch: pytest.MonkeyPatch, steps: Collection[int]) -> None:
    """Consume the batches of these steps without an optimizer step."""
    real_step = loop.train_step

    def skipping_step(state: Any, network: Any, batch: Any, position: Any, *rest: Any) -> object:  # noqa: ANN401
        if state.step + 1 not in steps:
            return real_step(state, network, batch, position, *rest)
        state.step, state.position = state.step + 1, position
        return state.metric_sums[0]

    patch.setattr(loop, "train_step", skipping_step)


def main() -> None:
    """Train in one of the processes of torchrun."""
    file, dataset, folder, poisoned_rank, *steps = sys.argv[1:]
    params, out = load_params(Path(file)), Path(folder) / f"model-{rank()}"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if poisoned_rank == "none":
            skip(patch, set(map(int, steps)))
        else:
            poison(patch, set(map(int, steps)) if rank() == int(poisoned_rank) else set())
        print(loop.train(params.model, params.train, Path(dataset), out, key="0" * 64))


if __name__ == "__main__":
    main()
