"""Weights that are not finite are neither published nor loaded."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import InitFromParams, TrainParams
from trm.data.parquet import read_meta
from trm.models.act import build_model
from trm.models.conversion import arch_of, export_published
from trm.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from trm.training.distributed import SINGLE_PROCESS, World
from trm.training.ema import ema_copy
from trm.training.import_export import export_checkpoint, import_checkpoint
from trm.training.non_finite import first_non_finite
from trm.training.trainer import train
from trm.utils.errors import DataError, InternalError
from trm.utils.paths import file_digest


@pytest.mark.parametrize("has_validation", [True, False])
def test_last_step_diverges(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path, has_validation: bool
) -> None:
    """The loss of the only step is finite; the weights after it are not."""
    if not has_validation:
        (tmp_path / "data").mkdir()
        for part in ("train", "test", "meta.json"):
            (tmp_path / "data" / part).symlink_to(dataset / part)
        dataset = tmp_path / "data"
    settings = train_params.model_copy(update={"epochs": 1, "global_batch_size": 20, "lr": 1e39})
    (tmp_path / "out").mkdir()
    message = r"^step 1: tensor raw\.\S+ has values that are not finite .*nothing was published; lower train.lr"
    with pytest.raises(InternalError, match=message) as caught:
        train(model_params, settings, dataset, tmp_path / "out", "key")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    assert not list((tmp_path / "states").rglob(FILE))


def test_learning_rate_beyond_float32(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for lr, lr_min_ratio in ((1e39, 1.0), (1e39, 0.0), (3.4e38, 1.0), (1e300, 1.0)):
        settings = train_params.model_copy(update={"lr": lr, "lr_min_ratio": lr_min_ratio})
        with pytest.raises(InternalError, match=r"^step 2, process 0 of 1: the loss is nan, .*; lower train.lr"):
            train(model_params, settings, dataset, tmp_path / "out", f"{lr} {lr_min_ratio}")
    assert list((tmp_path / "out").iterdir()) == []


@dataclass(frozen=True)
class OneOfTwo(World):
    """The second process of two; the first one has found a loss after `step` steps."""

    step: float = math.inf

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.tensor([[self.step, math.inf]], dtype=tensor.dtype), tensor])


def test_process_of_the_first_non_finite_loss() -> None:
    losses = {5: torch.tensor([1.0, 0.0]), 6: torch.tensor([math.nan, 0.0]), 7: torch.tensor([math.nan, 0.0])}
    assert first_non_finite(losses, SINGLE_PROCESS)[:2] == (6, 0)
    for other, expected in ((5, (5, 0, math.inf)), (6, (6, 0, math.inf))):
        assert first_non_finite(losses, OneOfTwo(1, 2, step=other)) == expected
    for other in (7, math.inf):
        assert first_non_finite(losses, OneOfTwo(1, 2, step=other))[:2] == (6, 1)


def test_process_of_the_first_non_finite_gradient() -> None:
    """With a non-finite loss in one process the gradients of both are not finite: the loss decides."""
    losses = {5: torch.tensor([1.0, 0.0]), 6: torch.tensor([2.0, math.nan])}
    assert first_non_finite(losses, SINGLE_PROCESS) == (6, 0, 2.0)
    assert first_non_finite(losses, OneOfTwo(1, 2, step=6)) == (6, 0, math.inf)
    assert first_non_finite(losses, OneOfTwo(1, 2, step=7)) == (6, 1, 2.0)


def test_an_earlier_best_checkpoint_is_not_published(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trm.training.step.rate_at", lambda *args: 1e39 if args[2] == 40 else 1e-3)
    (tmp_path / "out").mkdir()
    with pytest.raises(InternalError, match=r"^step 40: tensor "):
        train(model_params, train_params, dataset, tmp_path / "out", "key")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loading_is_refused(
    dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path, value: float
) -> None:
    model = build_model(model_params, read_meta(dataset), seed=1)
    with torch.no_grad():
        model.output_head.weight[1, 2] = value
    file = tmp_path / FILE
    save_checkpoint(file, model, ema_copy(model), {})
    message = rf"^{file}: tensor output_head.weight has values that are not finite .*; give another"
    init_from = InitFromParams(model=str(tmp_path), sha256=file_digest(file), reset_puzzle_emb=False)
    settings = train_params.model_copy(update={"init_from": init_from})
    (tmp_path / "out").mkdir()
    for load in (
        lambda: load_checkpoint(tmp_path),
        lambda: load_checkpoint(file, "raw"),
        lambda: export_checkpoint(tmp_path, tmp_path / "published"),
        lambda: train(model_params, settings, dataset, tmp_path / "out", "key"),
    ):
        with pytest.raises(DataError, match=message):
            load()
    assert not (tmp_path / "published").exists()


def test_import_is_refused(model_params: ModelParams, meta: DatasetMeta, tmp_path: Path) -> None:
    model = build_model(model_params, meta, seed=1)
    tensors = export_published(model)
    tensors["inner.lm_head.weight"] = tensors["inner.lm_head.weight"].double() * 1e300  # infinite in float32
    torch.save(tensors, tmp_path / "step_1")
    YAML().dump({"arch": arch_of(model)}, tmp_path / "all_config.yaml")
    with pytest.raises(DataError, match=r"tensor inner.lm_head.weight has values that are not finite .*; download"):
        import_checkpoint(tmp_path / "step_1", None, tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
