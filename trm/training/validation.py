"""The score on validation groups that chooses the best checkpoint."""

from collections.abc import Mapping

import torch

from trm.data.batches import test_batches
from trm.data.parquet import Split
from trm.training.distributed import ALONE, World
from trm.models.act import TRM
from trm.training.losses import IGNORED


def to_tensors(batch: Mapping[str, object], device: torch.device) -> dict[str, torch.Tensor]:
    """The numpy arrays of a batch as tensors on `device`."""
    return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


@torch.no_grad()
def validate(model: TRM, split: Split, batch_size: int, steps: int, world: World = ALONE) -> dict[str, float]:
    """Mean cell, exact and halt accuracy (fractions) of `model` over all examples of `split`, a turn each."""
    sums = torch.zeros(3, dtype=torch.float64)
    for number, (batch, real) in enumerate(test_batches(split, batch_size)):
        if number % world.size != world.rank:
            continue
        tensors = to_tensors(batch, model.device)
        tokens, halt_logit, _ = model.answer(tensors, steps)
        labelled = tensors["labels"] != IGNORED
        right = (tokens == tensors["labels"]) & labelled
        cell = right.sum(-1) / labelled.sum(-1).clamp(min=1)
        exact = right.sum(-1) == labelled.sum(-1)
        halt = (halt_logit >= 0) == exact
        sums += torch.stack([value[:real].double().sum() for value in (cell, exact, halt)]).cpu()
    cell, exact, halt = (world.sum(sums) / len(split)).tolist()
    return {"cell_accuracy": cell, "exact_accuracy": exact, "halt_accuracy": halt}
