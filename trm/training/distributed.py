"""Several processes that work as one, as torchrun starts them: who they are, and the few things they tell each other.

Nothing here changes what one process computes: alone, every method returns what it is given.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trm.utils.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    """Where tensors must lie to travel."""

    @property
    def leads(self) -> bool:
        """True for the one process that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's slots of `count`. Raises `UserError` where they cannot be shared equally."""
        if count % self.size:
            raise UserError(
                f"train.global_batch_size must be a multiple of the number of processes. Got {count} and {self.size}"
            )
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same bytes in each."""
        if self.size == 1:
            return tensor
        travels = tensor.to(self.device)
        dist.all_reduce(travels)
        return travels.to(tensor.device)

    def any(self, value: bool) -> bool:
        """Whether it is so in any process."""
        return (self.size > 1 and bool(self.sum(torch.tensor(int(value))))) or value

    def join(self, tensor: Tensor) -> Tensor:
        """The processes' tensors, of one shape, joined along the first axis in their order."""
        if self.size == 1:
            return tensor
        joined = tensor.new_empty(self.size * len(tensor), *tensor.shape[1:])
        dist.all_gather_single(joined, tensor.contiguous())
        return joined

    def copy_from_leader(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with the leader's."""
        if self.size > 1:
            travels = tensor.detach().to(self.device).contiguous()
            dist.broadcast(travels, 0)
            tensor.copy_(travels)

    def say(self, facts: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What the leader says (JSON), or None."""
        if self.size == 1:
            return facts
        text = json.dumps(facts).encode()
        size = torch.tensor(len(text))
        self.copy_from_leader(size)
        words = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads:
            words = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.copy_from_leader(words)
        return json.loads(bytes(words.tolist()))

    def collect(self, data: bytes) -> list[bytes]:
        """Every process's `data` in their order, for the leader; nothing for the others."""
        if self.size == 1:
            return [data]
        sizes = self.join(torch.tensor([len(data)], device=self.device)).tolist()
        words = torch.zeros(max(sizes), dtype=torch.uint8)
        words[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        words = words.to(self.device)
        parts = [torch.empty_like(words) for _ in sizes] if self.leads else None
        dist.gather(words, parts)
        return [part.cpu().numpy().tobytes()[:size] for part, size in zip(parts or (), sizes, strict=False)]


ALONE = World()


def rank() -> int:
    """This process's place among those that torchrun started; 0 where it started none."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """The processes that torchrun started, connected inside the block; `ALONE` where it started none or one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=device)
        return
    cuda = device.type == "cuda"
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield World(rank(), size, device if cuda else CPU)
    finally:
        dist.destroy_process_group()
