"""Which device and which precision `auto` means on this machine."""

import os

import torch

from trm.config.base import Device, Precision
from trm.utils.errors import UserError


def resolve_device(device: Device) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU. A device that is not there raises `UserError`."""
    there: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, usable in there.items() if usable)
    if not there[device]:
        raise UserError(f"device {device} is not available on this machine; set train.device, evaluate.device to auto")
    if device != "cuda":
        return torch.device(device)
    # torchrun starts a process for each GPU of a machine and tells it which one is its own.
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"more processes than GPUs on this machine: {count}; start torchrun with --nproc-per-node {count}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on CUDA and on CPUs with AMX or native bfloat16, else float32."""
    if precision == "auto":
        native = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16())
        return torch.bfloat16 if native else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def _cpu_has_bfloat16() -> bool:
    return any(has for name, has in torch.cpu.get_capabilities().items() if name in ("amx_bf16", "avx512_bf16", "bf16"))
