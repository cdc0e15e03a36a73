"""Options of the network in addition to the published ones: the formula of each, and where its gradient goes."""

import math

import pytest
import torch
from torch import Tensor

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.models.act import TRM, build_model
from trm.models.conversion import export_published
from trm.models.layers import SwiGLU, grid_coordinates, rope_table, rotate
from trm.utils.errors import UserError


def _model(params: ModelParams, meta: DatasetMeta, **changes: object) -> TRM:
    return build_model(ModelParams(**{**params.model_dump(), **changes}), meta, seed=3)


def _question(model: TRM, sequences: int = 2) -> Tensor:
    return model.embed(torch.arange(sequences * 16).reshape(sequences, 16) % 5 + 1, model.puzzle_table.new_zeros(0))


def test_normed_swiglu_by_hand() -> None:
    """Input 2, gate rows 0.5 and -0.5 (half each), up rows 1: gate * up = ±2, of mean square 4 over all of them."""
    layer = SwiGLU(1, 1.0, "normed", eps=0.0)
    with torch.no_grad():
        layer.gate_up.weight[:256] = torch.tensor([0.5, -0.5]).repeat(128)[:, None]
        layer.gate_up.weight[256:] = 1
        layer.down.weight.copy_(torch.tensor([1.0, 0.0]).repeat(128)[None] / 128)
        positive = layer(torch.tensor([[2.0]])).item()
        layer.down.weight.copy_(torch.tensor([0.0, 1.0]).repeat(128)[None] / 128)
        negative = layer(torch.tensor([[2.0]])).item()
    assert positive == pytest.approx(1 / (1 + math.exp(-1)))  # sigmoid(1) * 2 / 2
    assert negative == pytest.approx(-1 / (1 + math.exp(1)))  # sigmoid(-1) * -2 / 2


def test_coordinates_of_a_grid() -> None:
    assert grid_coordinates(1, 2, 3).tolist() == [[0, 0], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


def test_rope_2d_depends_on_the_distance_of_rows_and_of_columns() -> None:
    """Scores of the pairs ((1, 1), (2, 3)) and ((2, 2), (3, 4)) are equal; that of ((1, 1), (3, 2)) is not."""
    rope = rope_table(grid_coordinates(0, 3, 4), 8, 10000.0)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator)
    queries, keys = (rotate(vector.expand(1, 1, 12, 8), rope)[0, 0] for vector in (query, key))

    def score(one: tuple[int, int], other: tuple[int, int]) -> float:
        row, column = (4 * (r - 1) + c - 1 for r, c in (one, other))
        return (queries[row] @ keys[column]).item()

    assert score((1, 1), (2, 3)) == pytest.approx(score((2, 2), (3, 4)), abs=1e-5)
    assert abs(score((1, 1), (2, 3)) - score((1, 1), (3, 2))) > 0.01


def test_registers_stand_in_front_of_the_grid_and_learn(model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, register_tokens=2)
    with torch.no_grad():
        model.q_head.weight.fill_(1)
    x = _question(model)
    assert model.registers is not None
    assert x.shape == (2, 18, 16)
    assert torch.allclose(x[:, :2], (model.registers * math.sqrt(16)).expand(2, 2, 16))
    states = model.deep_recursion(x, model.initial_states(2))
    logits, halt, _ = model.read_out(states)
    assert logits.shape == (2, 16, 6)
    assert torch.allclose(halt, states["y"][:, 0].sum(-1) - 5, atol=1e-4)  # of the first register
    logits.square().sum().backward()
    assert model.registers.grad is not None
    assert model.registers.grad.abs().min() > 0


@pytest.mark.parametrize(("random_start", "noisy"), [("none", set()), ("latents", {"z"}), ("all", {"y", "z"})])
def test_random_start(random_start: str, noisy: set[str], model_params: ModelParams, meta: DatasetMeta) -> None:
    model = _model(model_params, meta, random_start=random_start, hidden_size=64)
    states = model.initial_states(50, torch.Generator().manual_seed(1))
    for name, state in states.items():
        assert (name not in noisy) == torch.equal(state, model.get_buffer(f"{name}_init").expand(50, 16, 64))
        if name in noisy:
            assert state.abs().max() <= 2
            assert state.std().item() == pytest.approx(0.8796, rel=0.01)  # of N(0, 1), cut at 2
            assert not torch.equal(state[0], state[1])
    fixed, again = model.initial_states(3), model.initial_states(2)
    for name in fixed:
        assert torch.equal(fixed[name][0], fixed[name][2])
        assert torch.equal(fixed[name][:2], again[name])
    if random_start == "all":
        assert not torch.equal(fixed["y"], fixed["z"])


def test_damping_and_noise_of_updates(model_params: ModelParams, meta: DatasetMeta) -> None:
    """The network returns 3; z starts at 1: 0.25 * 1 + 0.75 * 3 = 2.5, then 0.25 * 2.5 + 0.75 * 3 = 2.875."""
    model = _model(model_params, meta, update_damping=0.25, update_noise=0.01, hidden_size=64).eval()
    vars(model)["net"] = lambda _, x: torch.full_like(x, 3.0)
    start = {"y": torch.zeros(2, 16, 64), "z": torch.ones(2, 16, 64)}
    x = torch.zeros(2, 16, 64)
    once = model.latent_pass(x, start, 0)
    twice = model.latent_pass(x, once, 1)
    assert (once["z"].unique().item(), twice["z"].unique().item()) == (2.5, 2.875)
    assert not once["y"].any()
    noisy = [model.train().latent_pass(x, start, 0, torch.Generator().manual_seed(seed))["z"] for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert (noisy[0] - 2.5).std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("passes", "recorded"), [(None, 3), (1, 1), (2, 2), (5, 5), (6, 6), (99, 6)])
def test_gradient_reaches_the_last_passes_only(
    passes: int | None, recorded: int, model_params: ModelParams, meta: DatasetMeta
) -> None:
    """2 rounds of 2 + 1 passes; the default is the last round."""
    model = _model(model_params, meta, gradient_passes=passes)
    with_gradient, net = [], model.net

    def counted(name: str, x: Tensor) -> Tensor:
        with_gradient.append(torch.is_grad_enabled())
        return net(name, x)

    vars(model)["net"] = counted
    states = model.deep_recursion(_question(model), model.initial_states(2))
    assert with_gradient == [False] * (6 - recorded) + [True] * recorded
    assert states["y"].requires_grad
    with torch.no_grad():
        model.deep_recursion(_question(model), model.initial_states(2))
    assert not any(with_gradient[6:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swiglu": "normed"}, "model.swiglu must be swiglu to export: .* Got normed"),
        ({"pos_encodings": "rope_2d", "mlp_t": False}, "pos_encodings must be rope or learned or none .* Got rope_2d"),
        ({"register_tokens": 1}, "model.register_tokens must be 0 to export"),
        ({"random_start": "latents"}, "model.random_start must be none to export"),
        ({"update_damping": 0.05}, r"model.update_damping must be 0.0 to export: .* Got 0.05"),
    ],
)
def test_export_refuses_what_the_published_code_lacks(
    changes: dict[str, object], message: str, model_params: ModelParams, meta: DatasetMeta
) -> None:
    with pytest.raises(UserError, match=message):
        export_published(_model(model_params, meta, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pos_encodings": "rope_2d", "mlp_t": False, "num_heads": 8},
            "rope_2d needs a head size that is a multiple of 4",
        ),
        ({"pos_encodings": "rope", "mlp_t": False, "num_heads": 16}, "rope needs an even head size"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], message: str, model_params: ModelParams) -> None:
    with pytest.raises(ValueError, match=message):
        ModelParams(**{**model_params.model_dump(), **changes})
