"""When a run compiles its network."""

from pathlib import Path

import pytest

from trm.models.compilation import WORTHWHILE, should_compile
from trm.utils.errors import UserError


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only C++ compiler of this machine."""
    path = tmp_path / "bin/g++"
    path.parent.mkdir()
    path.touch(mode=0o755)
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(path.parent))
    return path


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_compiles_long_runs(compiler: Path, device: str) -> None:
    enough = WORTHWHILE[device]
    assert should_compile("auto", "train.compile", device, enough)
    assert not should_compile("auto", "train.compile", device, 0.99 * enough)
    assert not should_compile("auto", "train.compile", "mps", enough)
    compiler.unlink()
    assert not should_compile("auto", "train.compile", device, enough)


def test_an_explicit_setting_is_followed_or_refused(compiler: Path) -> None:
    assert should_compile(True, "train.compile", "cpu", 1)
    assert not should_compile(False, "train.compile", "cpu", 1e18)
    compiler.unlink()
    with pytest.raises(
        UserError, match=r"^evaluate.compile: .* needs a C\+\+ compiler.* or set evaluate.compile to false"
    ):
        should_compile(True, "evaluate.compile", "cpu", 1)
    assert not should_compile(False, "train.compile", "cpu", 1)
