"""The memory of this machine and of its GPU, and one line of refusal for work that would exceed it."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trm.utils.errors import UserError

if TYPE_CHECKING:
    import torch

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int:
    """Bytes that a process may use: the smaller of the free memory of the machine and the limit of its container."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable"))
        available = int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):  # "max" if there is no limit
        available = min(available, int(_CGROUP.read_text()))
    return available


class GpuMemory:
    """The memory of a GPU, for the choice of a batch size."""

    def __init__(self, device: "torch.device") -> None:
        self._device = device

    def free(self) -> int:
        """Bytes that new tensors may use."""
        import torch

        cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + cached

    def peak(self, compute: Callable[[], object]) -> int:
        """Bytes that `compute` needs at most. It is called twice: libraries allocate their own memory at the first."""
        import torch

        compute()
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        compute()
        return torch.cuda.max_memory_allocated(self._device) - before


def gpu_memory(device: "torch.device") -> GpuMemory | None:
    """The memory of a CUDA device; None for other devices."""
    return GpuMemory(device) if device.type == "cuda" else None


def check_memory(needed: int, setting: str, device: "torch.device | None" = None) -> None:
    """Raise `UserError` if about `needed` bytes exceed the free memory; `setting` is the cause.

    device: where the memory is needed. CUDA: the GPU; other devices and None: this machine.
    """
    if device is not None and device.type == "cuda":
        import torch

        available, owner = torch.cuda.mem_get_info(device)[0], "the GPU has"
    else:
        available, owner = available_memory(), "this machine has"
    if needed > available:
        raise UserError(
            f"{setting} needs about {readable(needed)} of memory, and {owner} {readable(available)}; lower it"
        )


def generation_announcement(count: int, what: str, needed: int, duration: str) -> str:
    """The line that announces a generation that is expected to take `duration` and `needed` bytes."""
    return f"{count:,} {what} take about {duration} and {readable(needed)} of memory on this machine"


def readable(size: int) -> str:
    """A number of bytes for a message: 1.5 GB."""
    from rich.filesize import decimal

    return decimal(size)
