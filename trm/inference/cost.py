"""The cost of an inference before it runs: a refusal beyond the memory of the machine, and an estimate of the time."""

import time
from typing import Literal

import numpy as np
import torch

from trm.config.inference import InferenceConfig
from trm.inference.engine import InferenceEngine
from trm.models.act import TRM
from trm.utils.memory import check_memory, gpu_memory, readable
from trm.utils.progress import duration

DEFAULT_BATCH = 64
"""Batch size on devices other than CUDA."""
LARGEST_BATCH = 8192
"""Largest batch size that is chosen; `trm evaluate` answers about as many sequences at a time."""
MEASURED = 8
"""Sequences of the batch whose memory is measured."""
SHARE = 0.7
"""Fraction of the free memory that a batch may need; the allocator of PyTorch cannot use all of it."""
BYTES_PER_VOTE = 2000
"""Memory of an augmentation besides its tokens: its grids, its name, its seed, its vote."""
VALUES_PER_POSITION = 16
"""Activations of a block in inference, relative to its width."""
MEMORY_WORTH_ANNOUNCING = 100_000_000
"""Bytes from which the memory of the votes is announced."""
WORTH_MEASURING, WORTH_ANNOUNCING = 2000, 20.0
"""Supervision steps of all sequences from which the time is measured; seconds from which it is announced."""


def resolve_batch_size(setting: int | Literal["auto"], model: TRM, config: InferenceConfig) -> int:
    """The batch size for a setting.

    auto: on CUDA the largest power of two, up to `LARGEST_BATCH`, whose sequences need at most `SHARE` of the free
    memory, by the measured need of a small batch; on other devices `DEFAULT_BATCH`.
    """
    if setting != "auto":
        return setting
    memory = gpu_memory(model.device)
    if memory is None:
        return DEFAULT_BATCH

    def compute() -> None:
        tokens, seeds = np.ones((MEASURED, model.meta.seq_len), np.uint8), [[number] for number in range(MEASURED)]
        engine = InferenceEngine(model, tokens, np.zeros(MEASURED, np.int64), config.latent_noise_std, seeds)
        engine.step()
        engine.movement()

    try:
        of_sequence = max(memory.peak(compute) / MEASURED, 1)
    except torch.OutOfMemoryError:
        return 1
    most = min(int(SHARE * memory.free() / of_sequence), LARGEST_BATCH)
    return 1 << max(most.bit_length() - 1, 0)


def check_inference(model: TRM, config: InferenceConfig) -> None:
    """Raise `UserError` if the votes of a puzzle, or the samples of a sequence, exceed the memory.

    Votes are in the memory of the machine, sequences in that of the model's device.
    """
    votes, device = _votes_memory(model, config), model.device
    check_memory(votes, f"num_votes={config.num_votes}")
    width = model.positions * model.config.block_width * VALUES_PER_POSITION * model.compute_dtype.itemsize
    shared = 0 if device.type == "cuda" else votes  # in the same memory
    check_memory(shared + config.num_samples * width, f"num_samples={config.num_samples}", device)
    if config.stops_puzzles:  # they share a batch
        sequences = config.num_votes * config.num_samples
        name = f"num_votes={config.num_votes}, num_samples={config.num_samples}"
        check_memory(shared + sequences * width, name, device)


def estimate(model: TRM, sequences: int, config: InferenceConfig, batch_size: int) -> str | None:
    """The expected time of answering `sequences` sequences, and the memory of the votes of a puzzle if it is large.

    None if the time is short. It is an upper bound if sequences halt early; it is measured on a small batch.
    """
    steps = sequences * config.num_samples * config.max_steps
    if steps < WORTH_MEASURING:
        return None
    size = min(sequences * config.num_samples, batch_size, 16)
    tokens = np.ones((size, model.meta.seq_len), np.uint8)
    engine = InferenceEngine(model, tokens, np.zeros(size, np.int64))
    engine.step()  # the first step is slower
    started = time.monotonic()
    engine.step()
    seconds = (time.monotonic() - started) / size * steps
    if seconds < WORTH_ANNOUNCING:
        return None
    work = f"{sequences * config.num_samples:,} sequences of {config.max_steps} steps"
    memory = _votes_memory(model, config)
    votes = f"; the votes of a puzzle need about {readable(memory)}" if memory >= MEMORY_WORTH_ANNOUNCING else ""
    return f"{work} take about {duration(seconds)} on this machine{votes}"


def _votes_memory(model: TRM, config: InferenceConfig) -> int:
    return config.num_votes * (4 * model.meta.seq_len + BYTES_PER_VOTE)
