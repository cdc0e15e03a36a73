"""Settings of the C libraries."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trm.cli.main import run_app
from trm.utils.process_settings import KEPT_MEMORY, SPINS, limit_spinning


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_every_command_line_is_tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path))
    seen: list[str | None] = []

    def app(**_: object) -> None:
        seen.extend(os.environ.get(name) for name in ("GOMP_SPINCOUNT", "TORCHINDUCTOR_CACHE_DIR"))

    with pytest.raises(SystemExit):
        run_app(app, "trm")
    assert seen == [SPINS, str(tmp_path / "compiled")]


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")])
def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == (value if name == "GOMP_SPINCOUNT" else None)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc has mallopt and mallinfo2")
def test_freed_memory_is_kept() -> None:
    """A process that frees 100 MB in blocks of 20 MB: the memory returns to the system only without the setting."""
    code = """
import ctypes, sys
from trm.utils.process_settings import keep_memory
if sys.argv[1] == "tuned":
    keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(20_000_000) for _ in range(5)]
for block in blocks:
    ctypes.memset(block, 1, 20_000_000)
for block in reversed(blocks):
    libc.free(block)
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")][0] * 1024)
"""
    resident = {
        name: int(subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True).stdout)
        for name in ("tuned", "plain")
    }
    assert KEPT_MEMORY > 100_000_000
    assert resident["tuned"] - resident["plain"] > 80_000_000
