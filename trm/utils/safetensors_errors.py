"""Errors of the operating system that safetensors and torch report as errors of their own."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_NUMBER = re.compile(r"\((?:os error )?(\d+)\)")


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Raise `OSError` for an error in the block that the operating system has caused, as its number shows."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        number = _NUMBER.search(str(error))
        if number and os.strerror(int(number[1])) in str(error):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise
