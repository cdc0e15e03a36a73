"""`train.deterministic`: the mode of PyTorch during a training, and its results on the CPU."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trm.config.model import LmaParams, ModelParams
from trm.config.training import AdamWParams, MuonParams, TrainParams
from trm.models.variants import VARIANTS
from trm.stages.content_keys import requests
from trm.stages.params import load_recipe
from trm.training import trainer
from trm.training.determinism import VARIABLE, deterministic
from trm.training.train_state import TrainState
from trm.training.trainer import train
from trm.utils.errors import UserError

Modes = list[bool]


@pytest.fixture(autouse=True)
def _own_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")  # restored afterwards
    monkeypatch.delenv(VARIABLE)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> Modes:
    """Whether the mode is on: at the start, at each step and at each validation."""
    found: Modes = []

    def spied(real: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: object) -> object:
            found.append(torch.are_deterministic_algorithms_enabled())
            return real(*args)

        return spy

    for name in ("train_step", "validate", "new_state"):
        monkeypatch.setattr(trainer, name, spied(getattr(trainer, name)))
    return found


class Run:
    """Trainings of a folder."""

    def __init__(self, dataset: Path, model: ModelParams, settings: TrainParams, folder: Path) -> None:
        self.dataset, self.model, self.settings, self.folder = dataset, model, settings, folder

    def __call__(self, name: str, model: dict[str, Any] | None = None, **changes: object) -> dict[str, bytes]:
        """Train with changed settings; returns the files of the result."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        params = ModelParams(**{**self.model.model_dump(), **(model or {})})
        train(params, self.settings.model_copy(update={"epochs": 2, **changes}), self.dataset, out, name)
        return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def run(dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path) -> Run:
    return Run(dataset, model_params, train_params, tmp_path)


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_the_mode_is_on_during_the_training(run: Run, modes: Modes, before: tuple[bool, bool]) -> None:
    """20 groups, 2 epochs, batches of 4: the start, 10 steps, one validation. Then the mode is as before."""
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    run("on", deterministic=True)
    assert modes == [True] * 12
    found = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    assert found == before


def test_the_mode_is_off_without_the_setting(run: Run, modes: Modes) -> None:
    run("off")
    assert modes == [False] * 12
    assert VARIABLE not in os.environ


def test_the_mode_is_off_after_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_args: object) -> None:
        assert torch.are_deterministic_algorithms_enabled()
        raise OSError("no space left on device")

    monkeypatch.setattr(trainer, "train_step", failing)
    with pytest.raises(OSError, match="no space left"):
        run("failed", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


ADAMW = AdamWParams(name="adamw", beta1=0.9, beta2=0.95, weight_decay=0.1)
MUON = MuonParams(name="muon", lr=0.02, momentum=0.95, weight_decay=0.005, others=ADAMW)
LMA = LmaParams(enable=True, mode="unclean", length=32, dim=8, heads=2)
ATTENTION: dict[str, Any] = {"mlp_t": False, "pos_encodings": "rope"}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": ({}, {}),
    "attention": (ATTENTION, {}),
    "attention of a plane": (ATTENTION | {"pos_encodings": "rope_2d"}, {}),
    "learned positions": (ATTENTION | {"pos_encodings": "learned", "swiglu": "normed"}, {}),
    "latent meta attention": ({"lma": LMA.model_dump(), **ATTENTION}, {}),
    "puzzle embedding": ({"puzzle_emb_ndim": 16, "puzzle_emb_len": 1, "register_tokens": 2}, {}),
    "adamw": ({}, {"network": ADAMW, "max_grad_norm": 0.1}),
    "muon": ({"q_continue_loss": True}, {"network": MUON, "loss": "softmax", "label_smoothing": 0.1}),
    "online augmentation": ({}, {"online_augmentation": True, "max_hints": 0.5}),
    "starts": ({"random_start": "latents", "update_noise": 0.01}, {"winner_takes_all": 2, "carry_pool": 2}),
    "roll-back": ({}, {"rollback_on_nonfinite": True, "micro_batch_size": 3}),
    "bfloat16": (ATTENTION, {"precision": "bfloat16"}),
    **{arch: ({"arch": arch, **ATTENTION}, {}) for arch in VARIANTS},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_result_on_a_cpu_is_that_without_the_mode(run: Run, train_params: TrainParams, name: str) -> None:
    """No operation raises because it has no deterministic algorithm."""
    model, changes = OPTIONS[name]
    network = changes.get("network", train_params.optimizer.network)
    changes = {key: value for key, value in changes.items() if key != "network"}
    changes["optimizer"] = train_params.optimizer.model_copy(update={"network": network})
    assert run("with", model, **changes, deterministic=True) == run("without", model, **changes)


def test_a_resumed_run_has_the_same_bytes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole", deterministic=True)
    real = trainer.train_step

    def interrupting(state: TrainState, *args: Any) -> torch.Tensor:  # noqa: ANN401 - the arguments of `train_step`
        if state.step == 7:
            raise KeyboardInterrupt
        return real(state, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run("resumed", deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert run("resumed", deterministic=True) == whole


def test_the_setting_is_in_the_manifest_and_in_the_content_key() -> None:
    """On CUDA it changes the algorithms. Only the training and the stages after it depend on it."""
    found = [requests(load_recipe("sudoku-6x6", {"train.deterministic": value})) for value in (False, True)]
    assert [each["train"]["params"]["train"]["deterministic"] for each in found] == [False, True]
    changed = {name for name in found[0] if found[0][name]["key"] != found[1][name]["key"]}
    assert changed == {"train", "evaluate", "report"}


@pytest.mark.parametrize("value", [None, ":4096:8", ":16:8"])
def test_cublas_is_configured_before_cuda_is_used(
    train_params: TrainParams, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: value is not None)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with deterministic(train_params.model_copy(update={"deterministic": True})):
        assert os.environ[VARIABLE] == (value or ":4096:8")
    assert os.environ[VARIABLE] == (value or ":4096:8"), "a second training in this process finds it"


def test_the_device_is_chosen_after_cublas_is_configured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(_device: str) -> torch.device:
        assert os.environ[VARIABLE] == ":4096:8"
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trainer, "resolve_device", choose)
    with pytest.raises(InterruptedError):
        run("cuda", deterministic=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (":4096:2:16:8", "CUBLAS_WORKSPACE_CONFIG must be :4096:8 or :16:8 .* Got :4096:2:16:8"),
        (None, "already used CUDA without CUBLAS_WORKSPACE_CONFIG; set it to :4096:8 before the start"),
    ],
)
def test_a_process_whose_cublas_is_not_deterministic(
    train_params: TrainParams, monkeypatch: pytest.MonkeyPatch, value: str | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with (
        pytest.raises(UserError, match=message),
        deterministic(train_params.model_copy(update={"deterministic": True})),
    ):
        pass
    assert not torch.are_deterministic_algorithms_enabled()
