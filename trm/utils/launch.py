"""The processes of a distributed run, as torchrun describes them to each of its workers.

The variables RANK, WORLD_SIZE and LOCAL_RANK count only in a worker of torchrun. Elsewhere they are left over from a
shell or a scheduler: a process that trusted them would wait for others, or leave its result to another process.
"""

import os
from typing import Literal

Variable = Literal["RANK", "WORLD_SIZE", "LOCAL_RANK"]
PARENT = os.getppid()
"""Process that started this one, such as torchrun. It is recorded before torch is imported, which takes a second."""


def started_by_torchrun() -> bool:
    """Whether this process is a worker of torchrun, which sets TORCHELASTIC_RUN_ID."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """The rank of this process; 0 without torchrun."""
    return _variable("RANK", 0)


def world_size() -> int:
    """The number of processes; 1 without torchrun."""
    return _variable("WORLD_SIZE", 1)


def local_rank() -> int:
    """The rank of this process on its machine; 0 without torchrun."""
    return _variable("LOCAL_RANK", 0)


def ignored_variables() -> list[str]:
    """The variables of a distributed run that are set although torchrun did not start this process."""
    return [] if started_by_torchrun() else [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]


def _variable(name: Variable, default: int) -> int:
    return int(os.environ.get(name, default)) if started_by_torchrun() else default
