"""Libraries in C that tests load into programs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def shared_library(source: Path, folder: Path) -> Path:
    """Compile `source` for LD_PRELOAD. Skips the test where that is impossible."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    compiled = folder / f"{source.stem}.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", compiled, source, "-ldl"]
    subprocess.run([compiler, *options], check=True)
    return compiled
