"""Trainings and inferences that exceed the memory of a GPU: no GPU is needed to refuse them."""

import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.inference.cost import check_inference
from trm.models.act import TRM, build_model
from trm.training.cost import check_training
from trm.utils.errors import UserError

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_batch_beyond_the_memory_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
    meta: DatasetMeta,
    model_params: ModelParams,
    train_params: TrainParams,
    dtype: torch.dtype,
    size: int,
) -> None:
    """1,000 sequences of 16 cells and 16 channels: 2 states, 8 values in each of 3 blocks, 6 logits for each cell."""
    needed = size * 1000 * (2 * 16 * 16 + 8 * 3 * 16 * 16 + 16 * 6)
    free = [needed]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10 * needed))
    check_training(model_params, meta, 1000, train_params, CUDA, dtype)
    free[0] -= 1
    with pytest.raises(UserError, match=r"train.global_batch_size=4 needs about .* of memory, and the GPU has"):
        check_training(model_params, meta, 1000, train_params, CUDA, dtype)
    shorter = model_params.model_copy(update={"gradient_passes": 2})
    check_training(shorter, meta, 1000, train_params, CUDA, dtype)


def test_samples_beyond_the_memory_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, meta: DatasetMeta, model_params: ModelParams
) -> None:
    """1,000 samples of 16 cells, 16 channels, 16 float32 values each. The votes are in the memory of the machine."""
    model, config = build_model(model_params, meta), DEFAULT_INFERENCE.model_copy(update={"num_samples": 1000})
    free = [4 * 1000 * 16 * 16 * 16]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10 * free[0]))
    monkeypatch.setattr(TRM, "device", property(lambda self: CUDA))
    check_inference(model, config)
    free[0] -= 1
    with pytest.raises(UserError, match=r"num_samples=1000 needs about 16.4 MB of memory, and the GPU has"):
        check_inference(model, config)
