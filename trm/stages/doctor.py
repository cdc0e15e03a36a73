"""`trm doctor`: what this machine has, and whether the present params can run on it."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from trm.config.evaluation import EvaluateParams, ReportParams
from trm.config.params import Params
from trm.config.training import TrainParams
from trm.datasets.registry import expected_meta
from trm.models.model_summary import flops
from trm.training.checks import learning_warnings
from trm.training.cost import check_training
from trm.utils.device import has_compiler, require_compiler, resolve_device, resolve_precision
from trm.utils.errors import UserError
from trm.utils.findings import Finding, check
from trm.utils.memory import available_memory, readable
from trm.utils.paths import cache_folder, states_folder

LIBRARIES = ("trm", "torch", "numpy", "pyarrow", "numba", "boto3", "dvc", "kfp")
LITTLE_SPACE = 1_000_000_000
"""Bytes of free disk below which a folder is reported."""


def diagnose(load: Callable[[], Params]) -> Iterator[Finding]:
    """The findings about this machine, then about the params that `load` returns. Starts nothing, and keeps no file."""
    yield from check_machine()
    try:
        params = load()
    except UserError as error:
        yield Finding("params", str(error), is_ok=False)
        return
    yield Finding("params", f"valid; dataset {params.data.name}", is_ok=True)
    for name, settings in {"train": params.train, "evaluate": params.evaluate, "report": params.report}.items():
        yield check(f"{name} on", lambda name=name, each=settings: _runs_on(name, each))
    yield check("training", lambda: _training(params))
    for warning in learning_warnings(params.model, params.train):
        yield Finding("settings", warning, is_ok=False)


def check_machine() -> Iterator[Finding]:
    """The findings about versions, compiler and folders."""
    yield check("versions", _versions)
    yield check("compiler", _compiler)
    folders = {
        "outputs": Path.cwd,
        "states": states_folder,
        "cache": cache_folder,
        "temporary files": lambda: Path(tempfile.gettempdir()),
    }
    for name, folder in folders.items():
        yield check(name, lambda folder=folder: _folder(folder()))


def _versions() -> str:
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return ", ".join([system, *(f"{name} {found}" for name in LIBRARIES if (found := _version(name)))])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:  # an extra that is not installed
        return None


def _compiler() -> str:
    return "found; torch.compile can be used" if has_compiler() else "none; compile: auto does not compile"


def _folder(folder: Path) -> str:
    """Write and delete a file there."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None  # not the name of the file
    if free < LITTLE_SPACE:
        raise UserError(f"{folder}: only {readable(free)} are free; free some space")
    return f"{folder}: writable, {readable(free)} free"


def describe_device(name: str, precision: str) -> str:
    """The device of a setting, its free memory, and the data type of the computation. Raises `UserError`."""
    device = resolve_device(name)
    dtype = str(resolve_precision(precision, device)).removeprefix("torch.")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found = f"{torch.cuda.get_device_name(device)}, {readable(free)} of {readable(total)} free"
    else:
        threads = f", {torch.get_num_threads()} of {os.cpu_count()} threads" if device.type == "cpu" else ""
        found = f"{device.type}{threads}, {readable(available_memory())} of memory"
    return f"{found}, {dtype}"


def _runs_on(stage: str, settings: TrainParams | EvaluateParams | ReportParams) -> str:
    if not isinstance(settings, ReportParams) and settings.compile is True:
        require_compiler(f"{stage}.compile")
    return describe_device(settings.device, settings.precision)


def _training(params: Params) -> str:
    meta, train = expected_meta(params.data), params.train
    if meta is None:
        return "the size of the grids is only known after `trm fetch`"
    device = resolve_device(train.device)
    slots = _slots(train, device)
    check_training(params.model, meta, slots, train, device, resolve_precision(train.precision, device))
    _, operations = flops(params.model, meta)
    work = f"{operations * train.global_batch_size / 1e9:,.1f} x 10^9 operations per step"
    return f"no certain lack of memory with {slots:,} sequences per process; {work}"


def _slots(train: TrainParams, device: torch.device) -> int:
    processes = torch.cuda.device_count() if device.type == "cuda" else 1
    return -(-train.global_batch_size // max(processes, 1))
