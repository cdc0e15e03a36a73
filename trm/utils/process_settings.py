"""Settings of the libraries under PyTorch, for the whole process: threads, memory, compiled code.

docs/results.md, Training speed, has measurements.
"""

import os
from contextlib import suppress

from trm.utils.errors import UserError
from trm.utils.paths import cache_folder

SPINS = "4000"
"""Turns of the loop in which a thread waits before it sleeps. With 1,000, threads on an Intel Xeon slept between most
operations, and a small network trained 1.4 times slower."""
KEPT_MEMORY = 512 << 20
"""Bytes of freed memory that the process keeps."""
LARGEST_KEPT = 32 << 20
"""Bytes of the largest block of memory that is kept; the limit of glibc."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def apply_process_settings() -> None:
    """Apply all settings to this process. Call it before the import of torch, which reads the environment."""
    limit_spinning()
    keep_memory()
    cache_compiled_code()


def limit_spinning() -> None:
    """Let threads of GNU OpenMP sleep soon when they wait, unless an environment variable sets how they wait.

    By default they wait for milliseconds in a loop. If another program uses one of the cores, the thread that they wait
    for does not run in this time, and training becomes up to ten times slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def cache_compiled_code() -> None:
    """Keep the code that torch.compile generates in the cache folder, unless `$TORCHINDUCTOR_CACHE_DIR` is set.

    The default is a folder in /tmp: lost when the machine restarts, at a name that others can guess.
    """
    with suppress(UserError):  # no home: torch's default
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


def keep_memory() -> None:
    """Let the allocator of glibc keep freed memory. No effect with other allocators.

    By default the tensors of each step are new memory, which the system clears page by page.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):  # not glibc; Windows has no library None
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_MEMORY)
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
