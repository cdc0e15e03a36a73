"""`trm doctor`: every single thing that is wrong has its line."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.cli.helpers import Run
from tests.findings import problems, read_findings
from tests.params import TINY, params_text
from trm.utils import memory

NAMES = ["versions", "compiler", "outputs", "states", "cache", "temporary files", "params"]
NAMES += ["train on", "evaluate on", "report on", "training"]


@pytest.fixture(autouse=True)
def _healthy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_000_000_000))
    monkeypatch.setattr(memory, "available_memory", lambda: 16_000_000_000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRM_STATE_DIR", str(tmp_path / "states"))
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "params.yaml").write_text(params_text(TINY))


def test_nothing_is_wrong(run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = read_findings(run("doctor"))
    assert list(found) == NAMES
    assert problems(found) == set()
    assert found["states"][1] == f"{tmp_path}/states: writable, 2.0 GB free"
    assert found["params"][1] == "valid; dataset sudoku"
    assert found["training"][1].startswith("no certain lack of memory with 10 sequences per process; ")
    assert sorted(tmp_path.rglob("*")) == before


def _full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=999_999_999))


def _file_in_the_way(patch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    patch.setenv("TRM_CACHE_DIR", str(Path.cwd() / "file/cache"))


def _little_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "available_memory", lambda: 1000)


def _no_compiler(patch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CC"):
        patch.delenv(name, raising=False)
    patch.setenv("PATH", str(Path.cwd()))


def _no_params(_: pytest.MonkeyPatch) -> None:
    Path("params.yaml").unlink()


def _nothing(_: pytest.MonkeyPatch) -> None:
    pass


CUDA = "device cuda is not available on this machine; set train.device and evaluate.device to auto"
ALL_FULL = dict.fromkeys(
    ("outputs", "states", "cache", "temporary files"), r"only 1,000.0 MB are free; free some space"
)


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (_full, (), ALL_FULL),
        (_file_in_the_way, (), {"cache": "file/cache: Not a directory; correct the path"}),
        (_little_memory, (), {"training": "needs about .* of memory, and this machine has 1.0 kB; lower it"}),
        (_no_params, (), {"params": "params.yaml: no such file; `trm init` writes params.yaml"}),
        (_nothing, ("train.lr=x",), {"params": "train.lr must be a valid number. Got 'x'"}),
        (_nothing, ("train.device=cuda",), {"train on": CUDA, "training": CUDA}),
        (_nothing, ("evaluate.device=cuda",), {"evaluate on": CUDA}),
        (_no_compiler, ("train.compile=true",), {"train on": "train.compile: .* needs a C.. compiler"}),
        (_no_compiler, ("evaluate.compile=true",), {"evaluate on": "evaluate.compile: .* needs a C.. compiler"}),
        (_nothing, ("train.lr=0",), {"settings": "train.lr is 0: the network stays as it is"}),
    ],
)
def test_each_single_problem(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
    options: tuple[str, ...],
    expected: dict[str, str],
) -> None:
    change(monkeypatch)
    found = read_findings(run("doctor", *(part for option in options for part in ("--set", option))))
    wrong = {name: found[name][1] for name in problems(found)}
    assert wrong.keys() == expected.keys()
    for name, words in expected.items():
        assert re.search(words, wrong[name]), wrong[name]
