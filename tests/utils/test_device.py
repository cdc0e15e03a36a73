"""Devices, and what torch.compile needs of a machine."""

from pathlib import Path

import pytest

from trm.utils.device import require_compiler
from trm.utils.errors import UserError


def test_compiler_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match=r"^train.compile: .* a C\+\+ compiler, .*; install g\+\+"):
        require_compiler("train.compile")
    for name in ("own-c++", "g++"):
        (tmp_path / name).touch(mode=0o755)
    require_compiler("train.compile")
    (tmp_path / "g++").unlink()
    monkeypatch.setenv("CXX", "own-c++")
    require_compiler("train.compile")
