"""Which device and which precision `auto` means on this machine."""

import torch

from trm.config import Device, Precision
from trm.errors import UserError


def resolve_device(device: Device) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU. A device that is not there raises `UserError`."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, usable in there.items() if usable))
    if not there[device]:
        raise UserError(f"device {device} is not available on this machine; set train.device, evaluate.device to auto")
    return torch.device(device)


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on CUDA and on CPUs with AMX or native bfloat16, else float32."""
    if precision == "auto":
        native = device.type == "cuda" or (device.type == "cpu" and _cpu_has_bfloat16())
        return torch.bfloat16 if native else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def _cpu_has_bfloat16() -> bool:
    return any(has for name, has in torch.cpu.get_capabilities().items() if name in ("amx_bf16", "avx512_bf16", "bf16"))
