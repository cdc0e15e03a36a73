"""Training steps per second with the settings of a params file on an existing dataset.

    python -m benchmarks.train_step --params params.yaml --dataset outputs/dataset --max-steps 50 [--batch 8]
    python -m benchmarks.train_step --case lma [--max-steps 3] [--batch 1]

Prints one line: device, precision, threads, parameters, batch size, median and maximum step time, steps per second.

Case lma requires no dataset. It trains recipe maze-hard (900 + 16 tokens, D 512) on random tokens: the whole sequence,
then latent meta attention with 229 (unclean) and 256 tokens (clean). It prints one line per case, with the step time
relative to the whole sequence. The cases alternate, so that other load on the machine affects all of them.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START, collate
from trm.data.parquet import read_meta, read_split
from trm.datasets.registry import expected_meta
from trm.models.act import Batch
from trm.stages.params import load_params, load_recipe
from trm.training.distributed import SINGLE_PROCESS
from trm.training.trainer import network_of, new_state, train_step
from trm.training.validation import to_tensors
from trm.utils.device import resolve_device, resolve_precision


class Timed:
    """A training with timed steps."""

    def __init__(self, model: ModelParams, settings: TrainParams, meta: DatasetMeta, batch: Batch) -> None:
        self.dtype = resolve_precision(settings.precision, batch["inputs"].device)
        self.settings, self.batch = settings, batch
        self.state = new_state(model, meta, settings, batch, self.dtype)
        self.network = network_of(self.state.model, settings, SINGLE_PROCESS)
        self.seconds: list[float] = []

    def step(self) -> None:
        """Run and time one step. It reads the loss and therefore waits for the GPU."""
        started = time.perf_counter()
        train_step(self.state, self.network, self.batch, START, self.settings, 10**9)
        self.seconds.append(time.perf_counter() - started)

    def line(self, warmup: int) -> str:
        """The result without the first `warmup` steps."""
        seconds = self.seconds[warmup:]
        return (
            f"{self.state.model.device.type} {str(self.dtype).removeprefix('torch.')} {torch.get_num_threads()} "
            f"threads, {sum(weight.numel() for weight in self.state.model.parameters()):,} parameters, "
            f"batch {len(self.batch['inputs'])}: median {1000 * self.median(warmup):.1f} ms, "
            f"slowest {1000 * max(seconds):.1f} ms, {len(seconds) / sum(seconds):.2f} steps/s"
        )

    def median(self, warmup: int) -> float:
        """Median step time in seconds without the first `warmup` steps."""
        return statistics.median(self.seconds[warmup:])


def main() -> None:
    """Time `--max-steps` steps after the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--dataset", default="outputs/dataset")
    parser.add_argument("--case", choices=["lma"], help="built-in case; ignores --params and --dataset")
    parser.add_argument("--max-steps", type=int, help="timed steps (default: 50; case lma: 3)")
    parser.add_argument("--batch", type=int, help="batch size (default: train.global_batch_size; case lma: 1)")
    options = parser.parse_args()
    if options.case == "lma":
        compare_lma(options.max_steps or 3, options.batch or 1)
        return
    params = load_params(options.params)
    settings = params.train
    if options.batch:
        settings = settings.model_copy(update={"global_batch_size": options.batch})
    meta, split = read_meta(options.dataset), read_split(f"{options.dataset}/train")
    rows = np.random.default_rng(0).integers(0, len(split), settings.global_batch_size)
    timed = Timed(params.model, settings, meta, to_tensors(collate(split, rows), resolve_device(settings.device)))
    for _ in range(3 + (options.max_steps or 50)):
        timed.step()
    print(timed.line(warmup=3))


def compare_lma(steps: int, batch_size: int) -> None:
    """Compare the whole sequence with both modes of latent meta attention."""
    params = load_recipe("maze-hard")
    meta = expected_meta(params.data)
    assert meta is not None
    settings = params.train.model_copy(update={"global_batch_size": batch_size})
    generator = torch.Generator().manual_seed(0)
    batch = {
        "inputs": torch.randint(1, meta.vocab_size, (batch_size, meta.seq_len), generator=generator).int(),
        "labels": torch.randint(1, meta.vocab_size, (batch_size, meta.seq_len), generator=generator).int(),
        "puzzle_identifiers": torch.zeros(batch_size, dtype=torch.int32),
    }
    batch = {name: tensor.to(resolve_device(settings.device)) for name, tensor in batch.items()}
    cases = {"whole": params.model}
    for mode, length in {"unclean": 229, "clean": 256}.items():
        lma = {"enable": True, "mode": mode, "length": length, "dim": 256, "heads": 8}
        values = {**params.model.model_dump(), "lma": lma}
        cases[f"{mode}, {length} tokens of 256"] = parse(ModelParams, values, "maze-hard")
    timed = {name: Timed(model, settings, meta, batch) for name, model in cases.items()}
    for _ in range(1 + steps):
        for case in timed.values():
            case.step()
    for name, case in timed.items():
        share = case.median(warmup=1) / timed["whole"].median(warmup=1)
        print(f"{name}: {case.line(warmup=1)}, {share:.3f} of the whole")


if __name__ == "__main__":
    main()
