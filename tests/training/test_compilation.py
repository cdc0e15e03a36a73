"""Training with torch.compile: the choice of a resumed run, and failures."""

from pathlib import Path

import pytest
import torch

from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.models import compilation
from trm.training import step as one_step
from trm.training import trainer as loop
from trm.training.trainer import train
from trm.utils.errors import UserError


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
    monkeypatch.setattr(one_step, "compile_passes", lambda model, *_, **__: compiled.append(model))
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
    monkeypatch.setattr(compilation, "require_compiler", lambda _: None)
    monkeypatch.setattr(loop, "should_compile", lambda *_: True)
    settings = train_params.model_copy(update={"compile": setting})
    if setting == "auto":
        assert train(model_params, settings, dataset, tmp_path, "key")["compiled"] is False
        assert "train: not compiled: torch.compile failed (RuntimeError)" in capsys.readouterr().err
        return
    with pytest.raises(UserError, match=r"^torch.compile failed \(RuntimeError\); set train.compile to false"):
        train(model_params, settings, dataset, tmp_path, "key")
