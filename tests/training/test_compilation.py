"""When a network is compiled."""

from pathlib import Path

import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models.model_summary import flops
from trm.training import compilation
from trm.training import step as one_step
from trm.training import trainer as loop
from trm.training.compilation import WORTHWHILE, should_compile
from trm.training.trainer import train
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


def choice(setting: str | bool, train_params: TrainParams, *more: object) -> bool:
    return should_compile(train_params.model_copy(update={"compile": setting}), *more)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_compiles_long_runs(
    compiler: Path, train_params: TrainParams, model_params: ModelParams, meta: DatasetMeta, device: str
) -> None:
    _, operations = flops(model_params, meta)
    enough = -int(-WORTHWHILE[device] // (4 * operations))
    assert choice("auto", train_params, model_params, meta, enough, device)
    assert not choice("auto", train_params, model_params, meta, enough - 1, device)
    assert not choice("auto", train_params, model_params, meta, enough, "mps")
    compiler.unlink()
    assert not choice("auto", train_params, model_params, meta, enough, device)


def test_an_explicit_setting_is_followed_or_refused(
    compiler: Path, train_params: TrainParams, model_params: ModelParams, meta: DatasetMeta
) -> None:
    assert choice(True, train_params, model_params, meta, 1, "cpu")
    assert not choice(False, train_params, model_params, meta, 10**15, "cpu")
    compiler.unlink()
    with pytest.raises(UserError, match=r"no C\+\+ compiler; install g\+\+ or clang"):
        choice(True, train_params, model_params, meta, 1, "cpu")
    assert not choice(False, train_params, model_params, meta, 1, "cpu")


@pytest.mark.parametrize("first", [False, True])
def test_a_resumed_run_keeps_its_choice(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    first: bool,
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(one_step, "compile_passes", lambda model, _: compiled.append(model))
    for chosen in (first, not first):
        monkeypatch.setattr(loop, "should_compile", lambda *_, chosen=chosen: chosen)
        facts = train(model_params, train_params, dataset, tmp_path, "key")
        assert facts["compiled"] is first
        assert ("train: with torch.compile" in capsys.readouterr().err) is first
    assert len(compiled) == 2 * first


@pytest.mark.parametrize("setting", ["auto", True])
def test_a_failed_compilation_only_ends_runs_that_ask_for_it(
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    setting: str | bool,
) -> None:
    def failing(_: object) -> object:
        def net(*_: object) -> object:
            raise RuntimeError("C++ compile error")

        return net

    monkeypatch.setattr(torch, "compile", failing)
    monkeypatch.setattr(compilation, "require_compiler", lambda: None)
    monkeypatch.setattr(loop, "should_compile", lambda *_: True)
    settings = train_params.model_copy(update={"compile": setting})
    if setting == "auto":
        assert train(model_params, settings, dataset, tmp_path, "key")["compiled"] is False
        assert "train: not compiled: torch.compile failed (RuntimeError)" in capsys.readouterr().err
        return
    with pytest.raises(UserError, match=r"^torch.compile failed \(RuntimeError\); set train.compile to false"):
        train(model_params, settings, dataset, tmp_path, "key")
