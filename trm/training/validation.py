"""Evaluation on the validation groups, which selects the best checkpoint."""

from collections.abc import Mapping

import torch

from trm.data.batches import IGNORE_INDEX, test_batches
from trm.data.parquet import Split
from trm.models.act import TRM
from trm.training.distributed import SINGLE_PROCESS, World
from trm.utils.device import pinned, to_device


def to_tensors(batch: Mapping[str, object], device: torch.device) -> dict[str, torch.Tensor]:
    """Convert the numpy arrays of a batch to tensors on `device`; CUDA copies them while the program continues."""
    return {name: to_device(pinned(torch.from_numpy(array), device), device) for name, array in batch.items()}


@torch.no_grad()
def validate(model: TRM, split: Split, batch_size: int, steps: int, world: World = SINGLE_PROCESS) -> dict[str, float]:
    """Mean cell, exact and halt accuracy (fractions) of `model` over `split`; the processes take turns."""
    sums = torch.zeros(3, dtype=torch.float64)
    for number, (batch, real) in enumerate(test_batches(split, batch_size)):
        if number % world.size != world.rank:
            continue
        tensors = to_tensors(batch, model.device)
        tokens, halt_logit, _ = model.answer(tensors, steps)
        labelled = tensors["labels"] != IGNORE_INDEX
        correct = (tokens == tensors["labels"]) & labelled
        cell = correct.sum(-1) / labelled.sum(-1).clamp(min=1)
        exact = correct.sum(-1) == labelled.sum(-1)
        halt = (halt_logit >= 0) == exact
        sums += torch.stack([value[:real].double().sum() for value in (cell, exact, halt)]).cpu()
    cell, exact, halt = (world.all_reduce(sums) / len(split)).tolist()
    return {"cell_accuracy": cell, "exact_accuracy": exact, "halt_accuracy": halt}
