"""Time of a training step and of an evaluation step.

    python -m benchmarks.train_step --case sudoku-mlp --precision float32 --json
    python -m benchmarks.train_step --case maze --case lma-unclean --case lma-clean --steps 3

A training step is a supervision step forward and backward, the optimizers and the EMA, on random tokens; the carry is
kept. An evaluation step is a supervision step of the EMA weights without gradients. Several cases run alternately, so
that other load on the machine affects all of them. Prints per case:

- train_seconds, evaluate_seconds: median time of a step
- train_gflops, evaluate_gflops: operations of the matrix products (`trm model-summary`) per second, in units of 1e9
- train_utilization, evaluate_utilization: the time that the matrix products alone would take, divided by the time of
  the step. The products of the same shapes and dtype are measured on the same device.
- peak_memory_bytes: on CUDA the memory of all tensors, otherwise the resident memory of this process
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import START
from trm.datasets.registry import expected_meta
from trm.models.act import build_model
from trm.models.linear import linear
from trm.models.model_summary import Product, matrix_products
from trm.stages.params import load_recipe
from trm.training.distributed import SINGLE_PROCESS
from trm.training.ema import ema_copy
from trm.training.step import network_of, new_state, train_step
from trm.utils.device import resolve_device, resolve_precision
from trm.utils.process_settings import keep_memory

IDENTIFIERS = 100
"""Rows of the puzzle embedding."""
WARMUP = 2
"""Steps that are not timed."""


@dataclass(frozen=True)
class Case:
    """A recipe with other sizes."""

    recipe: str
    batch: int
    changes: dict[str, Any]
    """Keys of section `model`."""

    def model(self) -> ModelParams:
        """The network."""
        values = load_recipe(self.recipe).model.model_dump()
        return parse(ModelParams, values | self.changes, self.recipe)

    def meta(self) -> DatasetMeta:
        """The dataset."""
        meta = expected_meta(load_recipe(self.recipe).data)
        assert meta is not None
        identifiers = IDENTIFIERS if self.model().puzzle_emb_ndim else 1
        return meta.model_copy(update={"num_identifiers": identifiers})


_SMALL = {
    "hidden_size": 128, "num_heads": 4, "L_layers": 2, "H_layers": 2, "H_cycles": 3, "L_cycles": 6, "mlp_t": False,
    "pos_encodings": "rope", "puzzle_emb_ndim": 128, "puzzle_emb_len": 16, "halt_max_steps": 16,
}  # fmt: skip
_LMA = {"enable": True, "dim": 256, "heads": 8}
CASES = {
    "default": Case("sudoku-6x6", 32, {}),
    "small": Case("sudoku-9x9", 64, _SMALL),
    "sudoku-mlp": Case("sudoku-extreme-mlp", 8, {}),
    "arc-att": Case("arc-agi-1", 1, {}),
    "maze": Case("maze-hard", 1, {}),
    "lma-unclean": Case("maze-hard", 1, {"lma": _LMA | {"mode": "unclean", "length": 229}}),
    "lma-clean": Case("maze-hard", 1, {"lma": _LMA | {"mode": "clean", "length": 256}}),
}


class Timed:
    """A case with timed steps."""

    def __init__(self, name: str, case: Case, batch: int | None, settings: TrainParams, compiled: bool) -> None:
        self.name, self.model, self.meta, self.compiled = name, case.model(), case.meta(), compiled
        self.settings = settings.model_copy(update={"global_batch_size": batch or case.batch})
        self.device = resolve_device(settings.device)
        self.dtype = resolve_precision(settings.precision, self.device)
        generator = torch.Generator().manual_seed(0)
        shape = (self.settings.global_batch_size, self.meta.seq_len)
        tokens = (torch.randint(1, self.meta.vocab_size, shape, generator=generator).int() for _ in range(2))
        rows = torch.randint(0, self.meta.num_identifiers, shape[:1], generator=generator).int()
        named = zip(("inputs", "labels", "puzzle_identifiers"), (*tokens, rows), strict=True)
        self.batch = {name: tensor.to(self.device) for name, tensor in named}
        self.state = new_state(self.model, self.meta, self.settings, self.batch, self.dtype)
        self.average = ema_copy(self.state.model)
        self.carry = self.average.initial_carry(self.batch)
        self.network = network_of(self.state.model, self.settings, SINGLE_PROCESS, compiled)
        self.evaluated = network_of(self.average, self.settings, SINGLE_PROCESS, compiled)
        self.train_seconds: list[float] = []
        self.evaluate_seconds: list[float] = []

    def train(self) -> None:
        """A training step."""
        train_step(self.state, self.network, self.batch, START, self.settings, 10**9)

    @torch.no_grad()
    def evaluate(self) -> None:
        """An evaluation step."""
        self.carry, _ = self.evaluated(self.carry, self.batch)

    def step(self) -> None:
        """Time a step of each kind."""
        self.train_seconds.append(seconds_of(self.train, self.device))
        self.evaluate_seconds.append(seconds_of(self.evaluate, self.device))

    def result(self) -> dict[str, Any]:
        """The measurements."""
        B = self.settings.global_batch_size
        result: dict[str, Any] = {
            "case": self.name,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
            "compiled": self.compiled,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "batch": B,
            "parameters": sum(weight.numel() for weight in self.state.model.parameters()),
        }
        model = build_model(self.model, self.meta)
        for kind, times in {"train": self.train_seconds, "evaluate": self.evaluate_seconds}.items():
            products = matrix_products(model.train(kind == "train"))
            seconds = statistics.median(times[WARMUP:])
            operations = B * sum(product.operations * count for product, count in products.items())
            alone = sum(self._product_seconds(product, B) * count for product, count in products.items())
            result[f"{kind}_seconds"] = round(seconds, 6)
            result[f"{kind}_gflops"] = round(operations / seconds / 1e9, 1)
            result[f"{kind}_utilization"] = round(alone / seconds, 3)
        return result | {"peak_memory_bytes": peak_memory(self.device)}

    def _product_seconds(self, product: Product, batch: int) -> float:
        """Median time of a product for the whole batch, with its backward pass if it has one."""
        left = (batch, product.rows) if product.heads is None else (batch, product.heads, product.rows)
        right = () if product.heads is None else (batch, product.heads)
        # Linear maps take the transposed matrix.
        x = torch.randn(*left, product.inner, device=self.device, dtype=self.dtype, requires_grad=True)
        w = torch.randn(*right, product.columns, product.inner, device=self.device, dtype=self.dtype)
        w.requires_grad_()
        grad = torch.randn(*left, product.columns, device=self.device, dtype=self.dtype)

        def multiply() -> Tensor:
            return linear(x, w, None) if product.heads is None else x @ w.transpose(-1, -2)

        def run() -> None:
            if product.differentiated:
                torch.autograd.grad(multiply(), (x, w), grad)
            else:
                with torch.no_grad():
                    multiply()

        return statistics.median([seconds_of(run, self.device) for _ in range(12)][WARMUP:])


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """The time that `run` takes, including the work that it leaves to a GPU."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started


def peak_memory(device: torch.device) -> int:
    """Bytes: of all tensors on CUDA, otherwise the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def print_profile(timed: Timed) -> None:
    """Print the most expensive operations of three steps of each kind."""
    from torch.profiler import ProfilerActivity, profile

    is_cuda = timed.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    for kind, run in {"train": timed.train, "evaluate": timed.evaluate}.items():
        with profile(activities=activities) as profiler:
            for _ in range(3):
                run()
        order = "self_cuda_time_total" if is_cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=40)
        print(f"{timed.name}, {kind}, 3 steps\n{table}", file=sys.stderr)


def main() -> None:
    """Time steps and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=CASES, action="append", help="case; several alternate (default: default)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["auto", "cpu", "mps", "cuda"], default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default: 10)")
    parser.add_argument("--batch", type=int, help="batch size (default: that of the case)")
    parser.add_argument("--json", action="store_true", help="one JSON object per case")
    parser.add_argument("--profile", action="store_true", help="print the most expensive operations to stderr")
    options = parser.parse_args()
    keep_memory()  # as the commands of trm do
    settings = load_recipe("sudoku-6x6").train
    settings = settings.model_copy(update={"precision": options.precision, "device": options.device})
    cases = options.case or ["default"]
    timed = [Timed(name, CASES[name], options.batch, settings, options.compile) for name in cases]
    for _ in range(WARMUP + options.steps):
        for case in timed:
            case.step()
    for case in timed:
        result = case.result()
        print(json.dumps(result) if options.json else _readable(result))
        if options.profile:
            print_profile(case)


def _readable(result: dict[str, Any]) -> str:
    lines = [
        f"{result['case']}: {result['device']} {result['precision']}, {'compiled' if result['compiled'] else 'eager'}, "
        f"{result['threads']} threads, {result['parameters']:,} parameters, batch {result['batch']}, "
        f"{result['peak_memory_bytes'] / 1e9:.1f} GB"
    ]
    for kind in ("train", "evaluate"):
        seconds, gflops, share = (result[f"{kind}_{name}"] for name in ("seconds", "gflops", "utilization"))
        speed = f"{1000 * seconds:8.1f} ms  {1 / seconds:7.2f} steps/s  {gflops:9,.1f} GFLOP/s"
        lines.append(f"  {kind:8} {speed}  {share:.0%} of the matrix products alone")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
