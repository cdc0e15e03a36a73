"""Devices: what `auto` means for them and for the compute dtype, copies to them, and what this machine has."""

import os
import shutil
from pathlib import Path

import torch

from trm.utils.errors import UserError
from trm.utils.launch import local_rank


def resolve_device(device: str) -> torch.device:
    """The torch device for a setting: `auto`, `cpu`, `mps` or `cuda`.

    `auto` selects CUDA, then MPS, then CPU. Under torchrun, each process gets the GPU of its `LOCAL_RANK`. Raises
    `UserError` if the device is unavailable.
    """
    available: dict[str, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, is_available in available.items() if is_available)
    if not available[device]:
        raise UserError(
            f"device {device} is not available on this machine; set train.device and evaluate.device to auto"
        )
    if device != "cuda":
        return torch.device(device)
    # torchrun starts one process per GPU and numbers them on each machine.
    number, count = local_rank(), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"LOCAL_RANK must be below the {count} GPUs of this machine. Got {number}; "
            f"start torchrun with --nproc-per-node {count}"
        )
    torch.cuda.set_device(number)
    # Products of float32 take TF32: many times faster, with 10 bits of the mantissa. Sums stay float32.
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    return torch.device("cuda", number)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The compute dtype for a setting. `auto`: bfloat16 on CUDA and on CPUs that multiply it fast, else float32."""
    if precision == "auto":
        native = device.type == "cuda" or (device.type == "cpu" and _cpu_has_fast_bfloat16())
        return torch.bfloat16 if native else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` in pinned memory if `device` is CUDA, which copies only such memory while the program continues."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy `tensor` to `device`, to CUDA while the program continues if it is `pinned`."""
    # MPS would read memory that has been freed in the meantime: https://github.com/pytorch/pytorch/issues/189690
    return tensor.to(device, non_blocking=device.type == "cuda")


def has_compiler() -> bool:
    """True if this machine has a compiler for the code that torch.compile generates."""
    names = [os.environ.get("CXX", ""), os.environ.get("CC", ""), "g++", "clang++", "gcc", "clang"]
    return any(name and shutil.which(name) for name in names)


def require_compiler(setting: str) -> None:
    """Raise `UserError`, which names `setting`, if this machine has no compiler for the code of torch.compile."""
    if not has_compiler():
        raise UserError(
            f"{setting}: torch.compile needs a C++ compiler, which this machine does not have; install g++ or clang, "
            f"set CXX to one, or set {setting} to false"
        )


def is_intel(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True if `cpuinfo`, the list of processors of Linux, names Intel. False where it is missing."""
    try:
        with cpuinfo.open(encoding="utf-8") as file:
            return "GenuineIntel" in file.read(4096)  # the first processor: a list of many takes milliseconds
    except OSError:
        return False


def _cpu_has_fast_bfloat16() -> bool:
    features = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.11
    # Without AMX, processors of Intel multiply bfloat16 at half the speed of float32 (docs/results.md, Training speed).
    has_fast_avx = features.get("avx512_bf16", False) and not is_intel()
    return has_fast_avx or features.get("amx_bf16", False) or features.get("bf16", False)
