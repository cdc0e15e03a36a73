import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.models.recursion import States


def _model(params: ModelParams, meta: DatasetMeta, **changes: object) -> TRM:
    return build_model(params.model_copy(update=changes), meta)


def test_order_of_passes(model_params: ModelParams, meta: DatasetMeta, monkeypatch: pytest.MonkeyPatch) -> None:
    """H rounds of L updates of z and one of y; gradients flow through the complete last round only."""
    model = _model(model_params, meta, H_cycles=3, L_cycles=2)
    calls: list[tuple[float, bool]] = []

    def net(_name: str, state: Tensor) -> Tensor:
        calls.append((state.item(), torch.is_grad_enabled()))
        return state * 2

    monkeypatch.setattr(model, "net", net)
    x, y, z = (torch.tensor(value, requires_grad=True) for value in (100.0, 1.0, 10.0))
    states = model.deep_recursion(x, {"y": y, "z": z})
    # Round 1: z = 2 (10 + 1 + 100) = 222, z = 2 (222 + 101) = 646, y = 2 (1 + 646) = 1294
    first = [(111.0, False), (323.0, False), (647.0, False)]
    # Round 2: z = 2 (646 + 1394) = 4080, z = 2 (4080 + 1394) = 10948, y = 2 (1294 + 10948) = 24484
    second = [(2040.0, False), (5474.0, False), (12242.0, False)]
    # Round 3: z = 2 (10948 + 24584) = 71064, z = 2 (71064 + 24584) = 191296, y = 2 (24484 + 191296) = 431560
    third = [(35532.0, True), (95648.0, True), (215780.0, True)]
    assert calls == first + second + third
    assert {name: state.item() for name, state in states.items()} == {"y": 431560.0, "z": 191296.0}
    # x enters the last round twice: y = 2 (y + 2 (2 (z + y + x) + y + x)), so dy/dx = 8 + 4
    (gradient,) = torch.autograd.grad(states["y"], x)
    assert gradient.item() == 12.0


def test_gradient_reaches_the_network_through_the_last_round_only(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, H_cycles=3)
    with torch.no_grad():
        model.q_head.weight.normal_()
    tokens = torch.randint(1, 6, (2, 16))
    x = model.embed(tokens, model.puzzle_table)
    start, weights = model.initial_states(2), list(model.networks.parameters())

    def one_round(states: States) -> States:
        injected = model.injected(x, states)
        for number in range(model.config.L_cycles):
            states = model.latent_pass(injected, states, number)
        return model.answer_pass(x, states)

    with torch.no_grad():
        before = one_round(one_round(start))

    def gradients(states: States) -> tuple[Tensor, ...]:
        return torch.autograd.grad(model.read_out(states)[0].square().sum(), weights, retain_graph=True)

    got, whole = gradients(model.deep_recursion(x, start)), start
    for _ in range(3):
        whole = one_round(whole)
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(one_round(before)), strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(got, gradients(whole), strict=True))


def test_embedding_by_hand(model_params: ModelParams, meta: DatasetMeta) -> None:
    """Puzzle vector padded to P * D and split into P tokens, followed by the grid tokens, all times sqrt(D)."""
    model = _model(model_params, meta, puzzle_emb_ndim=20, puzzle_emb_len=2)
    rows = torch.arange(1.0, 21.0)[None]
    x = model.embed(torch.full((1, 16), 3), rows)
    assert x.shape == (1, 18, 16)
    assert torch.allclose(x[0, 0], 4 * torch.arange(1.0, 17.0))
    assert torch.allclose(x[0, 1], 4 * torch.tensor([17.0, 18, 19, 20] + [0.0] * 12))
    assert torch.allclose(x[0, 2:], 4 * model.token_embedding[3].expand(16, 16))


def test_learned_positions_are_added_before_the_scaling(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, pos_encodings="learned")
    assert model.position_embedding is not None
    x = model.embed(torch.full((1, 16), 3), model.puzzle_table)
    assert torch.allclose(x[0], 4 * (model.token_embedding[3] + model.position_embedding) / math.sqrt(2))


def test_output_excludes_puzzle_tokens(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, puzzle_emb_ndim=16, puzzle_emb_len=1)
    with torch.no_grad():
        model.q_head.weight.fill_(1.0)
    y = torch.zeros(1, 17, 16)
    y[0, 0] = 1  # the q head reads only position 0, a puzzle token
    logits, halt_logit, continue_logit = model.read_out({"y": y})
    assert logits.shape == (1, 16, 6)
    assert logits.abs().max() == 0
    assert (halt_logit.item(), continue_logit.item()) == (16 - 5, 16 - 5)


def test_initialisation(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, hidden_size=128, puzzle_emb_ndim=128, puzzle_emb_len=1)
    assert model.puzzle_table.abs().max() == 0
    assert model.q_head.weight.abs().max() == 0
    assert model.q_head.bias is not None
    assert model.q_head.bias.tolist() == [-5, -5]
    assert model.get_parameter("networks.L.0.mlp.down.weight").std().item() == pytest.approx(
        1 / math.sqrt(256), rel=0.05
    )
    assert model.get_buffer("y_init").std().item() == pytest.approx(1, rel=0.2)
    assert "y_init" not in dict(model.named_parameters())
    assert "y_init" in model.state_dict()


def test_same_seed_same_weights(model_params: ModelParams, meta: DatasetMeta) -> None:
    first, again, other = (build_model(model_params, meta, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["token_embedding"], other["token_embedding"])


def test_bfloat16_keeps_float32_master_weights(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = build_model(model_params, meta, dtype=torch.bfloat16)
    x = model.embed(torch.full((1, 16), 3), model.puzzle_table)
    states = model.deep_recursion(x, model.initial_states(1))
    logits, halt_logit, _ = model.read_out(states)
    assert (states["y"].dtype, logits.dtype, halt_logit.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    logits.float().sum().backward()
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert model.token_embedding.grad is not None
    assert model.token_embedding.grad.dtype == torch.float32


class _Casts(TorchDispatchMode):
    """Counts the casts of tensors of two dimensions from float32 to bfloat16: those of weights."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        del types
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):  # noqa: SLF001
            source = args[-1]
            self.count += (result.dtype, source.dtype, source.dim()) == (torch.bfloat16, torch.float32, 2)
        return result


@pytest.mark.parametrize("mlp_t", [True, False])
def test_weights_are_cast_once_per_step(model_params: ModelParams, meta: DatasetMeta, mlp_t: bool) -> None:
    """A block has 4 matrices. 2 rounds of 3 passes, the last 3 with gradients."""
    params = model_params.model_copy(update={"mlp_t": mlp_t})
    model = build_model(params, meta, dtype=torch.bfloat16)
    model.cast_weights()
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    with _Casts() as casts:
        trained = model.deep_recursion(x, model.initial_states(3))
    assert casts.count == 4 + 3 * 4
    with torch.no_grad(), _Casts() as casts:
        evaluated = model.deep_recursion(x, model.initial_states(3))
    assert casts.count == 4
    assert all(torch.equal(evaluated[name], state) for name, state in trained.items())
    assert len(list(model.networks.parameters())) == 4
    assert len(list(model.parameters())) == len({id(weight) for weight in model.parameters()}) == 8


def test_changed_weights_are_cast_again(model_params: ModelParams, meta: DatasetMeta) -> None:
    model, other = (build_model(model_params, meta, seed, torch.bfloat16) for seed in range(2))
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        states = model.initial_states(3)
        before = model.deep_recursion(x, states)
        expected = other.deep_recursion(x, states)
        model.load_state_dict(other.state_dict())
        after = model.deep_recursion(x, states)
    assert not torch.equal(after["y"], before["y"])
    assert torch.equal(after["y"], expected["y"])
