import math

import pytest
import torch

from trm.models.layers import Attention, SwiGLU, rms_norm, rope_table, rotate, truncated_normal_


def test_rms_norm_by_hand() -> None:
    # mean of squares of (3, 4) is 12.5
    out = rms_norm(torch.tensor([[3.0, 4.0]]), eps=0.0)
    assert torch.allclose(out, torch.tensor([[3.0, 4.0]]) / math.sqrt(12.5))


def test_rms_norm_computes_in_float32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square does not fit float16
    assert torch.allclose(rms_norm(x, eps=1e-5).float(), torch.ones(1, 4))


def test_truncated_normal_std_and_bounds() -> None:
    weight = truncated_normal_(torch.empty(400_000), 0.5, torch.Generator().manual_seed(0))
    assert weight.std().item() == pytest.approx(0.5, abs=2e-3)
    assert weight.mean().item() == pytest.approx(0, abs=2e-3)
    # The standard deviation before truncation is greater than `std`; truncation is at two of those.
    assert 2 * 0.5 < weight.abs().max().item() <= 2 * 0.5 / 0.8796256


@pytest.mark.parametrize(("width", "expansion", "inner"), [(512, 4, 1536), (81, 4, 256), (97, 4, 512), (384, 1, 256)])
def test_swiglu_width_is_a_multiple_of_256(width: int, expansion: float, inner: int) -> None:
    # 512: 1365.3 -> 1365 -> 1536; 81: 216 -> 256; 97: 258.7 -> 259 -> 512; 384: 256 exactly
    layer = SwiGLU(width, expansion)
    assert layer.gate_up.weight.shape == (2 * inner, width)
    assert layer.down.weight.shape == (width, inner)


def test_swiglu_gates_the_second_half_with_the_first() -> None:
    layer = SwiGLU(1, 1.0)
    with torch.no_grad():
        layer.gate_up.weight[:256] = 2.0
        layer.gate_up.weight[256:] = 3.0
        layer.down.weight.fill_(1 / 256)
    silu = 2 / (1 + math.exp(-2))
    assert layer(torch.ones(1, 1)).item() == pytest.approx(3 * silu)


def test_rope_rotates_the_halves_against_each_other() -> None:
    # Head size 4: frequencies 1 and 1/100. Position 1 rotates (first, third) by 1 radian, (second, fourth) by 0.01.
    cos, sin = rope_table(torch.arange(2)[:, None], 4, 10000.0)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 2, 4)
    at_0, at_1 = rotate(x, (cos, sin))[0, 0]
    assert torch.equal(at_0, x[0, 0, 0])
    expected = [
        math.cos(1) - 3 * math.sin(1),
        2 * math.cos(0.01) - 4 * math.sin(0.01),
        3 * math.cos(1) + math.sin(1),
        4 * math.cos(0.01) + 2 * math.sin(0.01),
    ]
    assert at_1.tolist() == pytest.approx(expected)


def test_attention_is_not_causal_and_separates_heads() -> None:
    layer = Attention(hidden_size=2, num_heads=2)
    with torch.no_grad():
        layer.qkv.weight.zero_()
        layer.qkv.weight[4:] = torch.eye(2)  # v = x; equal scores everywhere: each head averages its own channel
        layer.out.weight.copy_(torch.eye(2))
    out = layer(torch.tensor([[[1.0, 10.0], [3.0, 30.0]]]), None)
    assert torch.allclose(out, torch.tensor([[[2.0, 20.0], [2.0, 20.0]]]))
