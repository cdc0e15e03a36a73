import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.training import AdamAtan2Params, AdamWParams, MuonParams, TrainParams
from trm.models.act import TRM, build_model
from trm.training import optimizers
from trm.training.optimizers import AdamAtan2, Optimizer, network_optimizers, sign_sgd_rows
from trm.utils.errors import UserError


def test_adam_atan2_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = AdamAtan2([weight], lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    weight.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()
    # m = 0.2, v = 0.2; the second moment's correction is inside the atan2, the first one's outside.
    first = 1 * (1 - 0.05) - 0.1 / 0.1 * math.atan2(0.2, math.sqrt(0.2) / math.sqrt(0.05))
    assert weight.item() == pytest.approx(first, rel=1e-12)
    weight.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    m, v = 0.9 * 0.2 - 0.1, 0.95 * 0.2 + 0.05
    second = first * 0.95 - 0.1 / (1 - 0.81) * math.atan2(m, math.sqrt(v) / math.sqrt(1 - 0.9025))
    assert weight.item() == pytest.approx(second, rel=1e-12)


def test_a_parameter_without_gradient_is_skipped() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = AdamAtan2([used, unused], lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    used.grad = torch.zeros(2)
    optimizer.step()
    assert used.tolist() == pytest.approx([0.95, 0.95])  # a zero gradient still decays
    assert unused.tolist() == [1, 1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("name", "lr", "decay"), [("lr1e-4_wd0.1", 1e-4, 0.1), ("lr1e-3_wd1.0", 1e-3, 1.0)])
@pytest.mark.parametrize("tensor", ["w", "b", "big", "tiny", "zero"])
def test_adam_atan2_against_the_kernel(
    goldens: Path, dtype: torch.dtype, tolerance: float, name: str, lr: float, decay: float, tensor: str
) -> None:
    golden = np.load(goldens / "adam_atan2.npz")
    at = f"{name}/{tensor}"
    weight = torch.nn.Parameter(torch.from_numpy(golden[f"{at}/p0"]).to(dtype))
    optimizer = AdamAtan2([weight], lr=lr, betas=(0.9, 0.95), weight_decay=decay)
    for step in range(1, 11):
        weight.grad = torch.from_numpy(golden[f"{at}/g{step}"]).to(dtype)
        optimizer.step()
        assert np.abs(weight.detach().numpy() - golden[f"{at}/p{step}"]).max() <= tolerance
    if dtype == torch.float64:
        state = optimizer.state[weight]
        assert np.allclose(state["exp_avg"].numpy(), golden[f"{at}/m10"], rtol=1e-12, atol=0)
        assert np.allclose(state["exp_avg_sq"].numpy(), golden[f"{at}/v10"], rtol=1e-12, atol=0)


SETTINGS = AdamAtan2Params(name="adam_atan2", beta1=0.9, beta2=0.95, weight_decay=0.1, fused=False)


def chosen(
    network: AdamAtan2Params | AdamWParams | MuonParams,
    train_params: TrainParams,
    model: TRM,
    device: str = "cpu",
    monkeypatch: pytest.MonkeyPatch | None = None,
) -> list[Optimizer]:
    """The optimizers of a model that is on `device`."""
    if monkeypatch is not None:
        monkeypatch.setattr(TRM, "device", torch.device(device))
    settings = train_params.optimizer.model_copy(update={"network": network})
    return network_optimizers(model, train_params.model_copy(update={"optimizer": settings}))


def test_the_cuda_kernel_is_used_where_a_setting_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, train_params: TrainParams, model_params: ModelParams, meta: DatasetMeta
) -> None:
    model, fused = build_model(model_params, meta), SETTINGS.model_copy(update={"fused": True})
    with pytest.raises(UserError, match="fused is true, but the device is cpu; set it to false"):
        chosen(fused, train_params, model)
    with pytest.raises(UserError, match=r"fused is true, but package adam-atan2 is not installed; .*trm\[cuda\]"):
        chosen(fused, train_params, model, "cuda", monkeypatch)

    class Kernel(AdamAtan2):
        pass

    package = types.ModuleType("adam_atan2")
    package.AdamATan2 = Kernel  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "adam_atan2", package)
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda _: object())
    (kernel,) = chosen(fused, train_params, model)
    assert type(kernel) is Kernel
    assert (kernel.param_groups[0]["betas"], kernel.param_groups[0]["weight_decay"]) == ((0.9, 0.95), 0.1)
    (plain,) = chosen(SETTINGS, train_params, model)
    assert type(plain) is AdamAtan2


def test_each_weight_has_one_optimizer(train_params: TrainParams, model_params: ModelParams, meta: DatasetMeta) -> None:
    model = build_model(model_params.model_copy(update={"pos_encodings": "learned"}), meta)
    adamw = AdamWParams(name="adamw", beta1=0.8, beta2=0.9, weight_decay=0.3)
    (single,) = chosen(adamw, train_params, model)
    assert isinstance(single, torch.optim.AdamW)
    group = single.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["base_lr"]) == ((0.8, 0.9), 0.3, train_params.lr)
    muon = MuonParams(name="muon", lr=0.02, momentum=0.9, weight_decay=0.005, others=adamw)
    matrices, others = chosen(muon, train_params, model)
    assert isinstance(matrices, torch.optim.Muon) and isinstance(others, torch.optim.AdamW)
    group = matrices.param_groups[0]
    assert (group["base_lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 0.005)
    names = {id(weight): name for name, weight in model.named_parameters()}
    by_muon, by_adamw = ({names[id(w)] for w in each.param_groups[0]["params"]} for each in (matrices, others))
    assert by_muon == {name for name in names.values() if name.startswith("networks.")}
    assert by_adamw == {
        "token_embedding", "position_embedding", "output_head.weight", "q_head.weight", "q_head.bias",
    }  # fmt: skip


def test_sign_sgd_by_hand() -> None:
    table = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    # Row 2 occurs twice: its gradients sum to (-1, 0, 3); it decays once. sign(0) is 0.
    sign_sgd_rows(
        table,
        torch.tensor([2, 0, 2]),
        torch.tensor([[1.0, 2.0, 1.0], [0.0, 5.0, -5.0], [-2.0, -2.0, 2.0]]),
        lr=0.1,
        weight_decay=0.5,
    )
    expected = [[0.95, 0.85, 1.05], [2.0, 2.0, 2.0], [2.85 + 0.1, 2.85, 2.85 - 0.1]]
    assert torch.allclose(table, torch.tensor(expected))


def test_sign_sgd_equals_published_code(goldens: Path) -> None:
    golden = np.load(goldens / "sparse_signsgd.npz")
    ids, gradients = torch.from_numpy(golden["fn/ids"]), torch.from_numpy(golden["fn/grad"])
    for name, lr, decay in [("lr1e-2_wd0.1", 1e-2, 0.1), ("lr1e-4_wd1.0", 1e-4, 1.0)]:
        table = torch.from_numpy(golden["fn/weights"].copy())
        sign_sgd_rows(table, ids, gradients, lr, decay)
        assert np.abs(table.numpy() - golden[f"fn/{name}/weights_after"]).max() <= 1e-7
    table = torch.from_numpy(golden["fn/weights"].copy())
    for step in (1, 2, 3):
        ids, gradients = (torch.from_numpy(golden[f"module/{name}{step}"]) for name in ("ids", "local_grad"))
        sign_sgd_rows(table, ids, gradients, 1e-2, 0.1)
        assert np.abs(table.numpy() - golden[f"module/weights{step}"]).max() <= 1e-7


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(0, 2**31))
def test_sign_sgd_does_not_change_other_rows(identifiers: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(10, 4, generator=generator)
    before = table.clone()
    ids = torch.tensor(identifiers, dtype=torch.int32)
    sign_sgd_rows(table, ids, torch.randn(len(identifiers), 4, generator=generator), 0.1, 0.1)
    for row in range(10):
        assert torch.equal(table[row], before[row]) == (row not in identifiers)
