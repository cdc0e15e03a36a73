"""Work beyond the memory of a GPU, which needs no GPU to be refused, or beyond the disk."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.data.batches import collate
from trm.data.parquet import read_meta, read_split
from trm.inference.cost import check_inference
from trm.models.act import TRM, build_model
from trm.training.cost import check_training
from trm.training.step import new_state
from trm.training.trainer import train
from trm.training.validation import to_tensors
from trm.utils.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


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


@pytest.mark.parametrize("puzzle_emb", [0, 16])
def test_states_beyond_the_disk(
    puzzle_emb: int,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Path,
    model_params: ModelParams,
    train_params: TrainParams,
    tmp_path: Path,
) -> None:
    """Refused before the first step. What the run has saved already counts as free: it will be replaced.

    The states share two tables of the puzzle embedding, and their two checkpoints have one each.
    """
    sizes = {"puzzle_emb_ndim": puzzle_emb, "puzzle_emb_len": puzzle_emb // 16}
    model_params = model_params.model_copy(update=sizes)
    batch = to_tensors(collate(read_split(dataset / "train"), np.arange(4)), CPU)
    state = new_state(model_params, read_meta(dataset), train_params, batch, torch.float32)
    table = state.model.puzzle_table.nbytes
    weights = sum(weight.nbytes for weight in state.model.state_dict().values()) - table
    average = sum(weight.nbytes for weight in state.average.parameters())
    carry = sum(tensor.nbytes for tensor in state.carry.tensors().values())
    needed = 3 * (weights + average + state.metric_sums.nbytes + weights + carry) + 4 * weights + 4 * table
    free = [needed]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
    (tmp_path / "out").mkdir()
    train(model_params, train_params, dataset, tmp_path / "out", "key")
    free[0] -= 1
    train(model_params, train_params, dataset, tmp_path / "out", "key")
    with pytest.raises(UserError, match=r"the training states need about .* of disk, and .*/other has .*; free space"):
        train(model_params, train_params, dataset, tmp_path / "out", "other")
