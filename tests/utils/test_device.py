"""Devices, and what torch.compile needs of a machine."""

from pathlib import Path

import pytest
import torch

from trm.utils import device
from trm.utils.device import require_compiler, resolve_precision, to_device
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


@pytest.mark.parametrize(
    ("vendor", "expected"), [("GenuineIntel", True), ("AuthenticAMD", False), ("HygonGenuine", False), (None, False)]
)
def test_vendor_of_the_processor(vendor: str | None, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if vendor is not None:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 6\n" * 64)
    assert device.is_intel(cpuinfo) is expected


@pytest.mark.parametrize(
    ("features", "is_intel", "expected"),
    [
        ({"avx512_bf16", "amx_bf16"}, True, torch.bfloat16),
        ({"avx512_bf16"}, True, torch.float32),  # half the speed of float32
        ({"avx512_bf16"}, False, torch.bfloat16),
        ({"bf16"}, False, torch.bfloat16),  # ARM
        ({"avx2"}, False, torch.float32),
    ],
)
def test_automatic_precision_of_a_cpu(
    features: set[str], is_intel: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("avx2", "avx512_bf16", "amx_bf16", "bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: name in features for name in names}, False)
    monkeypatch.setattr(device, "is_intel", lambda: is_intel)
    assert resolve_precision("auto", torch.device("cpu")) is expected
    assert resolve_precision("float32", torch.device("cpu")) is torch.float32
    assert resolve_precision("bfloat16", torch.device("cpu")) is torch.bfloat16


@pytest.mark.parametrize(("name", "expected"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_only_cuda_copies_while_the_program_continues(
    name: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPS may read the source after it has been freed."""
    calls: list[tuple[str, bool]] = []

    def to(_: torch.Tensor, target: torch.device, *, non_blocking: bool) -> None:
        calls.append((target.type, non_blocking))

    monkeypatch.setattr(torch.Tensor, "to", to)
    to_device(torch.zeros(3), torch.device(name))
    assert calls == [(name, expected)]
