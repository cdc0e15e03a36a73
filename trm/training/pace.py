"""The time of a training step on this machine, measured before a training."""

import statistics
import time

import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START
from trm.training.step import new_state, train_step
from trm.utils.device import resolve_device, resolve_precision

MAX_SECONDS = 3.0
"""Time after which no further step is measured."""
MAX_STEPS = 20
"""Steps that are measured, at most; the first one is not counted if there are more."""


def seconds_per_step(model: ModelParams, meta: DatasetMeta, settings: TrainParams) -> float:
    """The median time of a training step without torch.compile, in seconds, on random tokens."""
    device = resolve_device(settings.device)
    generator = torch.Generator().manual_seed(0)
    shape = (settings.global_batch_size, meta.seq_len)
    tokens = [torch.randint(1, meta.vocab_size, shape, generator=generator).int().to(device) for _ in range(2)]
    identifiers = torch.zeros(shape[0], dtype=torch.int32, device=device)
    batch = {"inputs": tokens[0], "labels": tokens[1], "puzzle_identifiers": identifiers}
    state = new_state(model, meta, settings, batch, resolve_precision(settings.precision, device))
    started, seconds = time.monotonic(), list[float]()
    while len(seconds) < MAX_STEPS and time.monotonic() - started < MAX_SECONDS:
        before = time.perf_counter()
        train_step(state, state.model, batch, START, settings, 10**9).item()  # waits for a GPU
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds[1:] or seconds)
