"""Steps per second of training with the settings of a params file, on a data set that is there.

    python -m benchmarks.train_step --params params.yaml --dataset outputs/dataset --steps 50 [--batch 8]

Prints one line: device, precision, threads, parameters, median and slowest time of a step, steps per second.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from trm.config import load_params
from trm.data.batches import START, collate
from trm.data.store import read_meta, read_split
from trm.device import resolve_device, resolve_precision
from trm.distributed import ALONE
from trm.training.loop import network_of, new_state, train_step
from trm.training.validation import to_tensors


def main() -> None:
    """Time `--steps` steps after three that are not counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--dataset", default="outputs/dataset")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, help="instead of train.global_batch_size")
    options = parser.parse_args()
    params = load_params(options.params)
    settings = params.train
    if options.batch:
        settings = settings.model_copy(update={"global_batch_size": options.batch})
    device = resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    meta, split = read_meta(options.dataset), read_split(f"{options.dataset}/train")
    rows = np.random.default_rng(0).integers(0, len(split), settings.global_batch_size)
    batch = to_tensors(collate(split, rows), device)
    state = new_state(params.model, meta, settings, batch, dtype)
    network = network_of(state.model, settings, ALONE)
    seconds = []
    for _ in range(3 + options.steps):
        started = time.perf_counter()
        # It reads the loss: nothing is left running on a GPU.
        train_step(state, network, batch, START, settings, 10**9)
        seconds.append(time.perf_counter() - started)
    seconds = seconds[3:]
    print(
        f"{device.type} {str(dtype).removeprefix('torch.')} {torch.get_num_threads()} threads, "
        f"{sum(weight.numel() for weight in state.model.parameters()):,} parameters, batch {len(rows)}: "
        f"median {1000 * statistics.median(seconds):.1f} ms, slowest {1000 * max(seconds):.1f} ms, "
        f"{len(seconds) / sum(seconds):.2f} steps/s"
    )


if __name__ == "__main__":
    main()
