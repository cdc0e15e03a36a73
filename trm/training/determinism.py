"""Deterministic algorithms of PyTorch during a training (`train.deterministic`)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trm.config.training import TrainParams
from trm.utils.errors import UserError

VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable of cuBLAS, which reads it once, before its first matrix product in a process."""
WORKSPACES = (":4096:8", ":16:8")
"""Its values for which cuBLAS is deterministic; the first one has the size of PyTorch's default for an H100."""


@contextmanager
def deterministic(settings: TrainParams) -> Iterator[None]:
    """Use deterministic algorithms of PyTorch during the block if `settings` require it; then the mode is as before.

    Enter it before the first use of CUDA: it sets `VARIABLE`, which stays set, because cuBLAS does not read it again.
    Raises `UserError` if this is too late, or if the variable has a value for which cuBLAS is not deterministic.
    """
    if not settings.deterministic:
        yield
        return
    if torch.cuda.is_available():
        _configure_cublas()
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def _configure_cublas() -> None:
    value = os.environ.get(VARIABLE)
    if value not in (None, *WORKSPACES):
        raise UserError(f"{VARIABLE} must be {' or '.join(WORKSPACES)} if train.deterministic is true. Got {value}")
    if value is None and torch.cuda.is_initialized():
        raise UserError(
            f"train.deterministic is true, but this process has already used CUDA without {VARIABLE}; set it to "
            f"{WORKSPACES[0]} before the start"
        )
    os.environ[VARIABLE] = value or WORKSPACES[0]
