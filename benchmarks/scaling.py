"""Cost of training the published recipes on several GPUs, calculated from shapes and stated assumptions.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --recipe maze-hard --gpus 1 --gpus 8 --tflops 60 --gpu-memory 48 --json

Nothing is measured: bytes, messages and operations follow from the recipe, durations also from the assumptions, which
are options. A test compares the bytes and messages with real processes. `docs/scaling.md` explains the formulas.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.datasets.registry import expected_meta
from trm.models.act import TRM, build_model
from trm.models.model_summary import flops
from trm.stages.params import load_recipe
from trm.training.losses import LOSSES, METRICS

FLOAT, INT, BFLOAT16 = 4, 4, 2
"""Bytes of a number: float32, int32, bfloat16."""
BUCKET_LIMITS = (2**20, 25 * 2**20)
"""DistributedDataParallel sends a bucket of gradients that has at least this size: the first one, and all others."""


@dataclass(frozen=True)
class Counts:
    """Size of a training split."""

    groups: int
    """Groups: an epoch takes one puzzle of each."""
    puzzles: int
    examples: int
    identifiers: int
    """Rows of the puzzle embedding."""


# Subsets and augmentations are those of the recipes. ARC with ConceptARC as counted by `augment` (docs/results.md).
_THOUSAND = Counts(groups=1000, puzzles=1000, examples=1000, identifiers=1)
PUBLISHED = {
    "sudoku-extreme-mlp": _THOUSAND,
    "sudoku-extreme-att": _THOUSAND,
    "maze-hard": _THOUSAND,
    "arc-agi-1": Counts(groups=960, puzzles=876_412, examples=3_633_447, identifiers=876_413),
    "arc-agi-2": Counts(groups=1280, puzzles=1_191_721, examples=5_163_251, identifiers=1_191_722),
}


@dataclass(frozen=True)
class Assumptions:
    """What the calculation cannot know: the speed of the hardware. The defaults describe machines with 8 H100."""

    tflops: float = 150.0
    """Sustained 10^12 operations per second of the matrix products of a GPU."""
    launch_ms: float = 10.0
    """Time to start the kernels of a step. It does not depend on the batch."""
    gpu_memory: float = 80.0
    """Memory of a GPU, 10^9 bytes."""
    gpus_per_machine: int = 8
    link: float = 200.0
    """10^9 bytes per second that a GPU sends to another one of its machine."""
    network: float = 12.5
    """10^9 bytes per second that a machine sends to another one."""
    latency_us: float = 50.0
    """Time of a collective call without data."""
    order_ms: float = 0.3
    """Time in which a process draws the examples of a step."""
    examples: float = 342_000.0
    """Examples per second that a process collates."""

    def bandwidth(self, processes: int) -> float:
        """Bytes per second of the slowest connection in a ring of all processes."""
        slowest = self.link if processes <= self.gpus_per_machine else min(self.link, self.network)
        return slowest * 1e9


@dataclass(frozen=True)
class Collective:
    """A kind of message that the processes exchange."""

    name: str
    operation: Literal["all_reduce", "all_gather"]
    sizes: tuple[int, ...]
    """Bytes that a process has after each call: the reduced tensor, or those of all processes."""
    every: int = 1
    """Steps from one time to the next."""

    @property
    def calls(self) -> float:
        """Calls per step."""
        return len(self.sizes) / self.every

    def sent(self, processes: int) -> float:
        """Bytes per step that a process sends, with the processes in a ring."""
        rounds = 2 if self.operation == "all_reduce" else 1  # all_reduce: reduce-scatter, then all_gather
        return rounds * sum(self.sizes) * (processes - 1) / processes / self.every

    def seconds(self, processes: int, assumed: Assumptions) -> float:
        """Time per step."""
        return self.calls * assumed.latency_us / 1e6 + self.sent(processes) / assumed.bandwidth(processes)


@dataclass(frozen=True)
class Workload:
    """A training: model, settings and dataset."""

    model: TRM
    """Without puzzle table."""
    train: TrainParams
    identifiers: int
    """Rows of the puzzle embedding."""
    steps: int
    """Optimizer steps of the run."""
    operations: int
    """Operations of the matrix products of a step for a sequence."""

    @staticmethod
    def of(config: ModelParams, meta: DatasetMeta, train: TrainParams, counts: Counts) -> "Workload":
        """The training of this model on a split of this size."""
        examples = train.epochs * counts.groups * counts.examples // counts.puzzles
        model = build_model(config, meta.model_copy(update={"num_identifiers": 1}))
        steps = examples // train.global_batch_size
        return Workload(model, train, counts.identifiers, steps, operations=flops(config, meta)[1])

    @staticmethod
    def of_recipe(name: str) -> "Workload":
        """A recipe of `PUBLISHED`."""
        params = load_recipe(name)
        meta = expected_meta(params.data)
        assert meta is not None
        return Workload.of(params.model, meta, params.train, PUBLISHED[name])

    @property
    def weights(self) -> int:
        """Trained numbers, without the puzzle embedding."""
        return sum(weight.numel() for weight in self.model.parameters())

    def slots(self, processes: int) -> int:
        """Sequences of a process."""
        assert self.train.global_batch_size % processes == 0
        return self.train.global_batch_size // processes


def gradient_buckets(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """Bytes of the messages in which DistributedDataParallel reduces the gradients, from its second step on."""
    # In the order in which the backward pass finishes the gradients: the last layer first.
    buckets, size = [], 0
    for weight in reversed(list(weights)):
        size += weight.numel() * FLOAT
        if size >= BUCKET_LIMITS[min(len(buckets), 1)]:
            buckets.append(size)
            size = 0
    return (*buckets, size) if size else tuple(buckets)


def collectives(work: Workload, processes: int, state_item: int = BFLOAT16) -> list[Collective]:
    """The messages of a training step (`trm.training.trainer`, `trm.training.train_state`).

    state_item: bytes of a number of the carried states.
    """
    if processes == 1:
        return []
    slots, width = work.train.global_batch_size, work.model.config.puzzle_emb_ndim
    messages = []
    if not work.train.freeze_weights:
        messages.append(Collective("gradients", "all_reduce", gradient_buckets(work.model.parameters())))
    if width:
        messages.append(Collective("puzzle identifiers", "all_gather", (INT * slots,)))
        messages.append(Collective("puzzle gradients", "all_gather", (FLOAT * slots * width,)))
    messages.append(Collective("metric sums", "all_reduce", (8 * (len(LOSSES) + len(METRICS)),)))
    messages.append(Collective("interruption flag", "all_reduce", (8,)))
    saved = tuple(slots * size for size in carry_sizes(work.model, state_item))
    messages.append(Collective("saved carry", "all_gather", saved, work.train.checkpoint_interval))
    return messages


def carry_sizes(model: TRM, state_item: int = BFLOAT16) -> list[int]:
    """Bytes per sequence of each tensor of the carry (`trm.models.act.Carry`)."""
    state = model.positions * model.config.block_width * state_item
    tokens = INT * model.meta.seq_len
    steps, halted, inputs, labels, identifier = INT, 1, tokens, tokens, INT
    return [state] * len(model.variant.states) + [steps, halted, inputs, labels, identifier]


def kept_activations(model: TRM) -> int:
    """Bytes per sequence that the last round keeps in bfloat16 for the backward pass, estimated from the layers."""
    blocks, (low, high) = model.variant.blocks(model.config), model.variant.networks
    return ((model.variant.gradient_passes(model.config) - 1) * blocks[low] + blocks[high]) * _block_activations(model)


def _block_activations(model: TRM) -> int:
    """Bytes per sequence that a block keeps.

    A SwiGLU keeps its input, gate and up, and their product. A norm keeps its input in float32. Attention keeps its
    input, q, k, v, the rotated q and k, its output and a float32 number per head.
    """
    config, S, D = model.config, model.positions, model.config.block_width
    inner, inner_t = (ceil(round(config.expansion * width * 2 / 3) / 256) * 256 for width in (D, S))
    mlp, norm = BFLOAT16 * S * (D + 3 * inner), FLOAT * S * D
    if config.mlp_t:
        mix = BFLOAT16 * D * (S + 3 * inner_t)
    else:
        rotated = 2 if config.pos_encodings in ("rope", "rope_2d") else 0
        mix = BFLOAT16 * S * D * (1 + 3 + rotated + 1) + FLOAT * S * config.block_heads
    return mix + norm + mlp + norm


def memory(work: Workload, processes: int, limit: float) -> tuple[int, dict[str, int]]:
    """The largest number of sequences in a part of the batch that fits into `limit` bytes, and bytes per GPU by use.

    The first number is that of the recipe if it has one, and never larger than the sequences of a process.
    """
    weights, slots = FLOAT * work.weights, work.slots(processes)
    passes = work.model.variant.gradient_passes(work.model.config)
    uses = {
        "weights, gradients, two moments, EMA": 5 * weights,
        "bfloat16 weights": (1 + passes) * BFLOAT16 * work.weights,  # for passes without gradients; of each with them
        "puzzle table": FLOAT * work.identifiers * work.model.config.puzzle_emb_ndim,
        "carry before and after the step": 2 * slots * sum(carry_sizes(work.model)),
    }
    # One block more: the gradients of the block that the backward pass is in.
    activations = kept_activations(work.model) + _block_activations(work.model)
    fitting = [part for part in range(1, slots + 1) if slots % part == 0]
    fitting = [part for part in fitting if sum(uses.values()) + part * activations <= limit] or [1]
    part = min(slots, work.train.micro_batch_size or fitting[-1])
    return part, uses | {"activations": part * activations}


def estimate(name: str, work: Workload, processes: int, assumed: Assumptions) -> dict[str, Any]:
    """The costs on this number of GPUs."""
    slots = work.slots(processes)
    part, uses = memory(work, processes, assumed.gpu_memory * 1e9)
    messages = collectives(work, processes)
    data = assumed.order_ms / 1e3 + slots / assumed.examples
    seconds = {
        "matrix products": slots * work.operations / (assumed.tflops * 1e12),
        "kernel launches": assumed.launch_ms / 1e3 * slots / part,
        "data": data,
    }
    exchange = {message.name: message.seconds(processes, assumed) for message in messages}
    # The processor prepares data and starts kernels while the GPU computes. The exchange waits for both.
    computing = max(seconds["matrix products"], seconds["kernel launches"] + data)
    total = computing + sum(exchange.values())
    seconds |= exchange
    return {
        "recipe": name,
        "gpus": processes,
        "steps": work.steps,
        "hours": round(work.steps * total / 3600, 2),
        "step_ms": round(1e3 * total, 3),
        "step_ms_by_part": {part: round(1e3 * value, 3) for part, value in seconds.items()},
        "bottleneck": max(seconds, key=lambda part: seconds[part]),
        "exchange_share": round(sum(exchange.values()) / total, 4),
        "operations_per_step": work.train.global_batch_size * work.operations,
        "operations_per_step_and_gpu": slots * work.operations,
        "data_bytes_per_step_and_gpu": slots * INT * (2 * work.model.meta.seq_len + 1),
        "sent_bytes_per_step_and_gpu": {message.name: round(message.sent(processes)) for message in messages},
        "calls_per_step": {message.name: round(message.calls, 3) for message in messages},
        "micro_batch_size": part,
        "memory_bytes": uses | {"total": sum(uses.values())},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown. Efficiency is relative to the first row of a recipe."""
    lines = [
        "| Recipe | GPUs | Step | Duration | Efficiency | Exchange | Memory per GPU | Micro-batch | Bottleneck |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    first: dict[str, float] = {}
    for row in rows:
        cost = row["gpus"] * row["step_ms"]
        efficiency = first.setdefault(row["recipe"], cost) / cost
        digits = 2 if row["hours"] < 10 else 1
        lines.append(
            f"| `{row['recipe']}` | {row['gpus']} | {row['step_ms']:,.1f} ms | {row['hours']:.{digits}f} h | "
            f"{efficiency:.0%} | {row['exchange_share']:.1%} | {row['memory_bytes']['total'] / 1e9:.1f} GB | "
            f"{row['micro_batch_size']} | {row['bottleneck']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the costs of the recipes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", choices=PUBLISHED, action="append", help="recipe; repeatable (default: all)")
    parser.add_argument("--gpus", type=int, action="append", help="number of GPUs; repeatable (default: 1, 4, 8, 64)")
    helps = {
        "tflops": "sustained TFLOP/s of a GPU",
        "launch_ms": "ms to start the kernels of a step",
        "gpu_memory": "GB of memory of a GPU",
        "gpus_per_machine": "GPUs of a machine",
        "link": "GB/s between two GPUs of a machine",
        "network": "GB/s between two machines",
        "latency_us": "us of a collective call without data",
        "order_ms": "ms to draw the examples of a step",
        "examples": "examples per second that a process collates",
    }
    for field, default in asdict(Assumptions()).items():
        option, text = "--" + field.replace("_", "-"), f"assumption: {helps[field]} (default: {default:g})"
        parser.add_argument(option, type=type(default), default=default, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object per recipe and number of GPUs")
    options = parser.parse_args()
    assumed = Assumptions(**{field: getattr(options, field) for field in helps})
    rows = []
    for name in options.recipe or PUBLISHED:
        work = Workload.of_recipe(name)
        batch = work.train.global_batch_size
        for processes in options.gpus or (1, 4, 8, 64):
            if batch % processes:
                parser.error(f"--gpus must divide the batch of {name}. Got {processes} and {batch}")
            rows.append(estimate(name, work, processes, assumed))
    print("\n".join(map(json.dumps, rows)) if options.json else table(rows))


if __name__ == "__main__":
    main()
