"""A program with a stand-in for a GPU: PyTorch has the device `cuda`, which the CPU computes (stand_in.cpp).

    python -m tests.gpu.stand_in LIBRARY MODULE [ARGUMENT ...]

runs a module, as `python -m MODULE` does. With the environment variable TRM_TEST_EVERYTHING_ON_CUDA, settings with the
device cpu use the stand-in, too.
"""

import ctypes
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".cpp")
FORCED = "TRM_TEST_EVERYTHING_ON_CUDA"
MEMORY = 2**40
"""Bytes of the device if there is no limit."""


def build(folder: Path) -> Path | None:
    """Compile the device for the installed PyTorch; returns the library, or None if this machine cannot."""
    compiler = shutil.which("c++")
    if sys.platform != "linux" or compiler is None:
        return None
    torch = Path(sysconfig.get_path("platlib")) / "torch"
    library = folder / "stand_in.so"
    includes = [f"-isystem{torch / path}" for path in ("include", "include/torch/csrc/api/include")]
    options = ["-std=c++20", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", *includes, str(SOURCE)]
    libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch", f"-Wl,-rpath,{torch / 'lib'}"]
    subprocess.run([compiler, *options, "-o", str(library), *libraries], check=True)
    return library


def activate(library: Path) -> None:
    """Give PyTorch the device. Raises `RuntimeError` if torch has been imported before."""
    if "torch" in sys.modules:
        raise RuntimeError("the device must be loaded before torch is imported")
    device = ctypes.CDLL(str(library))
    for name in ("gpu_waits", "gpu_memory", "gpu_peak", "gpu_limit"):
        getattr(device, name).restype = ctypes.c_int64
    for name in ("gpu_set_limit", "gpu_set_small"):
        getattr(device, name).argtypes = [ctypes.c_int64]
    import torch

    def free_memory(_: object = None) -> tuple[int, int]:
        total = min(device.gpu_limit(), MEMORY)
        return total - device.gpu_memory(), total

    counted = 0

    def set_sync_debug_mode(mode: str) -> None:
        """As torch's, but that the warnings come at the end of the mode."""
        nonlocal counted
        for _ in range(device.gpu_waits() - counted if mode == "default" else 0):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        counted = device.gpu_waits()

    replacements: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda _: None,
        "synchronize": lambda _=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda _=None: "the CPU in place of a GPU",
        "mem_get_info": free_memory,
        "memory_allocated": lambda _=None: device.gpu_memory(),
        "memory_reserved": lambda _=None: device.gpu_memory(),
        "max_memory_allocated": lambda _=None: device.gpu_peak(),
        "max_memory_reserved": lambda _=None: device.gpu_peak(),
        "set_sync_debug_mode": set_sync_debug_mode,
        "reset_peak_memory_stats": lambda _=None: device.gpu_reset_peak(),
        # Not in torch: for the tests.
        "waits": device.gpu_waits,
        "set_memory": lambda size=MEMORY: device.gpu_set_limit(size),
        "set_small_copies": device.gpu_set_small,
    }
    for name, function in replacements.items():
        setattr(torch.cuda, name, function)
    if FORCED in os.environ:
        from trm.utils import device as devices

        resolve = devices.resolve_device
        devices.resolve_device = lambda device: resolve("cuda" if device == "cpu" else device)


if __name__ == "__main__":
    _, path, module, *arguments = sys.argv
    activate(Path(path))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
