"""A worker of torchrun: trains, and writes what the processes exchange in some steps.

    python -m tests.training.count_collectives PARAMS DATASET FOLDER FIRST LAST

FOLDER/calls-RANK.json: `calls`, a list of [operation, bytes, number], and `loopback_bytes`, which all processes of the
network namespace sent over its loopback device.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trm.training.trainer as loop
from trm.stages.params import load_params
from trm.utils.launch import rank

OPERATIONS = {"allreduce_": "all_reduce", "allgather_": "all_gather"}
"""Operator of PyTorch -> its name in `torch.distributed`. Its first argument is the result."""


class CallCounter(TorchDispatchMode):
    """Counts the operators that send messages, also those of DistributedDataParallel, which is written in C++."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func.namespace == "c10d":
            name = func.overloadpacket.__name__
            self.calls[OPERATIONS.get(name, name), sum(tensor.nbytes for tensor in tree_leaves(args[0]))] += 1
        return func(*args, **(kwargs or {}))


def loopback_bytes() -> int:
    """Bytes sent over the loopback device so far, with headers."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    line = next((line for line in lines if line.strip().startswith("lo:")), "lo: 0")
    return int(line.split()[1])


def main() -> None:
    """Count from the start of step FIRST to the start of step LAST."""
    file, dataset, folder, first, last = sys.argv[1:]
    params, counter = load_params(Path(file)), CallCounter()
    before: dict[int, tuple[Counter[tuple[str, int]], int]] = {}
    train_step: Callable[..., object] = loop.train_step

    def counted_step(state: Any, *rest: Any) -> object:  # noqa: ANN401 - the arguments of `train_step`
        before[state.step + 1] = counter.calls.copy(), loopback_bytes()
        return train_step(state, *rest)

    loop.train_step = counted_step
    out = Path(folder) / f"model-{rank()}"
    out.mkdir()
    with counter:
        loop.train(params.model, params.train, Path(dataset), out, key="0" * 64)
    (calls, sent), (calls_before, sent_before) = before[int(last)], before[int(first)]
    rows = [[operation, size, number] for (operation, size), number in sorted((calls - calls_before).items())]
    counted = {"calls": rows, "loopback_bytes": sent - sent_before}
    (Path(folder) / f"calls-{rank()}.json").write_text(json.dumps(counted))


if __name__ == "__main__":
    main()
