"""Distributed training: the processes that torchrun starts, and the few collectives that training needs.

With a single process every method returns its argument.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from trm.utils.errors import InternalError, UserError
from trm.utils.launch import PARENT, rank, world_size

CPU = torch.device("cpu")
RENDEZVOUS_TIMEOUT = 600.0
"""Seconds that a process waits at the start for the others."""
POLL_INTERVAL = 0.1


@dataclass(frozen=True)
class World:
    """The processes of a run, from the view of one of them."""

    rank: int = 0
    """Rank of this process."""
    size: int = 1
    """Number of processes."""
    device: torch.device = CPU
    """Device of the tensors of collectives: the GPU with NCCL, the CPU with Gloo."""

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This process's part of `count` slots. Raises `UserError` if they cannot be divided equally."""
        if count % self.size:
            raise UserError(
                f"train.global_batch_size must be a multiple of the number of processes. Got {count} and {self.size}"
            )
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, with identical bytes in each."""
        if self.size == 1:
            return tensor
        summed = tensor.to(self.device)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def any(self, value: bool) -> bool:
        """Whether `value` is true in any process."""
        return (self.size > 1 and bool(self.all_reduce(torch.tensor(int(value))))) or value

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors of the processes, which have one shape, along the first axis in order of rank."""
        if self.size == 1:
            return tensor
        gathered = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(gathered), tensor.contiguous())
        return gathered.flatten(0, 1)

    def broadcast_(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with that of the main process."""
        if self.size > 1:
            sent = tensor.detach().to(self.device).contiguous()
            dist.broadcast(sent, 0)
            tensor.copy_(sent)

    def broadcast_object(self, value: Any) -> Any:  # noqa: ANN401 - any picklable value
        """The `value` of the main process."""
        if self.size == 1:
            return value
        objects = [value]
        dist.broadcast_object_list(objects, 0, device=self.device)
        return objects[0]

    def gather_object(self, value: Any) -> list[Any]:  # noqa: ANN401 - any picklable value
        """The values of all processes in order of rank in the main process; an empty list in the others."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []


SINGLE_PROCESS = World()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Connect the processes that torchrun started for the duration of the block.

    Raises `InternalError` if the others do not arrive within `RENDEZVOUS_TIMEOUT`, or if torchrun ends before. Signals
    end the wait.
    """
    size = world_size()
    if size == 1:
        yield World(device=device)
        return
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=_rendezvous(size),
        rank=rank(),
        world_size=size,
        device_id=device if cuda else None,
    )
    try:
        yield World(rank(), size, device if cuda else CPU)
    finally:
        dist.destroy_process_group()


def _rendezvous(size: int) -> Store:
    """The store that connects the processes, after all of them have arrived.

    The calls of torch.distributed that wait for other processes run no signal handlers. So the connection is made in a
    thread, and the arrivals are counted by calls that do not wait.
    """
    found: list[Store] = []
    failed: list[Exception] = []

    def connect() -> None:
        try:
            store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_TIMEOUT))))
            found.append(store)
        except Exception as error:
            failed.append(error)

    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT

    def waiting() -> bool:
        # The processes of a torchrun that was killed get another parent; no other process would arrive.
        return time.monotonic() < deadline and os.getppid() == PARENT

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    while thread.is_alive() and waiting():
        thread.join(POLL_INTERVAL)
    arrived = found[0].add("arrived", 1) if found else 0
    while found and arrived < size and waiting():
        time.sleep(POLL_INTERVAL)
        arrived = found[0].add("arrived", 0)
    if arrived < size and os.getppid() != PARENT:
        raise InternalError("torchrun ended before its processes met; start it again")
    if arrived < size:
        reason = f"{arrived} of {size} processes arrived" if found else " ".join(str(*failed).split())
        raise InternalError(
            f"the processes of torchrun did not meet within {RENDEZVOUS_TIMEOUT:.0f} seconds ({reason}); "
            "check that all nodes run the same command and reach the first one"
        )
    return found[0]
