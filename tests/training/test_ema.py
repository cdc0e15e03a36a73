from pathlib import Path

import numpy as np
import pytest
import torch

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import build_model
from trm.training.ema import ema_copy, update_ema


def test_by_hand(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = build_model(model_params, meta)
    with torch.no_grad():
        model.token_embedding.fill_(1.0)
    average = ema_copy(model)
    for expected in (1.9, 2.71):  # 0.9 * 1 + 0.1 * 10, then 0.9 * 1.9 + 0.1 * 10
        with torch.no_grad():
            model.token_embedding.fill_(10.0)
        update_ema(average, model, 0.9)
        assert average.token_embedding.mean().item() == pytest.approx(expected)
    update_ema(average, model, 0.0)
    assert torch.equal(average.token_embedding, model.token_embedding)


def test_table_and_start_vectors_are_shared(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = build_model(model_params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}), meta)
    average = ema_copy(model)
    assert average.puzzle_table is model.puzzle_table
    assert average.get_buffer("y_init") is model.get_buffer("y_init")
    assert average.token_embedding is not model.token_embedding
    assert not any(weight.requires_grad for weight in average.parameters())
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("rate", [0.999, 0.9])
def test_equals_published_code(goldens: Path, rate: float) -> None:
    golden = np.load(goldens / "ema.npz")
    names = {key.rpartition("/")[2] for key in golden.files if key.startswith(f"mu{rate}/p0/")}
    assert names
    for name in names:
        model, average = (torch.nn.Module() for _ in range(2))
        average.weight = torch.nn.Parameter(torch.from_numpy(golden[f"mu{rate}/p0/{name}"].copy()))
        for step in range(1, 6):
            model.weight = torch.nn.Parameter(torch.from_numpy(golden[f"mu{rate}/p{step}/{name}"]))
            update_ema(average, model, rate)  # pyright: ignore[reportArgumentType] - only parameters() is used
        assert np.abs(average.weight.detach().numpy() - golden[f"mu{rate}/shadow5/{name}"]).max() <= 1e-6
