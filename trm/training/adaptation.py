"""Adaptation of a trained model to the examples of one puzzle, with the step of the training."""

from collections.abc import Callable

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.config.training import TrainParams
from trm.data.batches import collate, training_batches
from trm.data.parquet import Split
from trm.models.act import TRM
from trm.training.distributed import SINGLE_PROCESS
from trm.training.step import check_losses, network_of, new_state, train_step
from trm.training.validation import to_tensors


def adapt(
    source: TRM,
    meta: DatasetMeta,
    split: Split,
    settings: TrainParams,
    steps: int,
    is_over: Callable[[], bool] = lambda: False,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[TRM, int]:
    """Train a copy of `source` for at most `steps` optimizer steps on `split`; return its EMA weights and the steps.

    The copy has the puzzle embedding of the dataset `meta`, whose rows start at the mean row of `source`. `source` does
    not change. settings: `init_from` and `epochs` are not used. `is_over` is called before each step and ends the
    training early; `advance` is called after each step. The result depends only on the arguments and on the number of
    steps. Raises `NonFiniteLossError` for a loss that is NaN or infinite.
    """
    slots, device = settings.global_batch_size, source.device
    first = to_tensors(collate(split, np.zeros(slots, np.int64)), device)
    state = new_state(source.config, meta, settings, first, source.compute_dtype, source)
    network = network_of(state.model, settings, SINGLE_PROCESS)
    epochs = max(steps, 1) * slots  # an epoch has at least one example, so there are enough batches
    for rows, _, position in training_batches(split, epochs, slots, settings.seed):
        if state.step == steps or is_over():
            break
        batch = to_tensors(collate(split, rows), device)
        train_step(state, network, batch, position, settings, max(steps, 1))
        advance(1)
    check_losses(state)
    return state.average, state.step
