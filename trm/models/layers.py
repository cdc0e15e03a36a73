"""Layers of the network: bias-free linear maps, SwiGLU, attention with rotary positions, post-norm blocks.

Shape suffixes: B batch, S sequence (puzzle tokens, then grid tokens), D hidden size, H heads, K head size.
Master weights are float32; each layer computes in the dtype of its input.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm.config.model import ModelParams
from trm.models.linear import linear

# Standard deviation of the standard normal distribution truncated at -2 and 2:
# sqrt(1 - 2 * 2 * pdf(2) / (cdf(2) - cdf(-2))).
_TRUNCATED_STD = 0.8796256610342398


def truncated_normal_(weight: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fill `weight` from a normal distribution truncated at two standard deviations; `std` is that of the result."""
    parent = std / _TRUNCATED_STD
    return nn.init.trunc_normal_(weight, std=parent, a=-2 * parent, b=2 * parent, generator=generator)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32 without a weight; shape and dtype of x."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class Linear(nn.Module):
    """y = W x (+ b), with float32 parameters that are cast to the dtype of the input."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def extra_repr(self) -> str:
        """The shapes, for `print(model)`."""
        out_features, in_features = self.weight.shape
        return f"{in_features} -> {out_features}" + (", bias" if self.bias is not None else "")


def gated(x: Tensor) -> Tensor:
    """silu(gate) * up with [gate, up] = x: [..., 2 N] -> [..., N]."""
    if torch.compiler.is_compiling():
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _Gated.apply(x)


class _Gated(torch.autograd.Function):
    """`gated` in eager mode: the gradients of both halves are written to one tensor, not concatenated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch has no type of `ctx`
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ANN401
        (x,), (grad,) = ctx.saved_tensors, grad_outputs
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(torch.mul(grad, up, out=grad_up), gate, grad_input=grad_gate)
        torch.mul(F.silu(gate), grad, out=grad_up)
        return result


class SwiGLU(nn.Module):
    """W_down(h) with [gate, up] = W_in x, over the last dimension of width `width`.

    kind: `swiglu`: h = silu(gate) * up. `normed`: h = sigmoid(gate) * rmsnorm(gate * up), which bounds h (SIC, arXiv
    2601.19085).
    """

    def __init__(self, width: int, expansion: float, kind: str = "swiglu", eps: float = 1e-5) -> None:
        super().__init__()
        inner = math.ceil(round(expansion * width * 2 / 3) / 256) * 256
        self.kind, self.eps = kind, eps
        self.gate_up = Linear(width, 2 * inner)
        self.down = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        both = self.gate_up(x)
        if self.kind == "normed":
            gate, up = both.chunk(2, dim=-1)
            return self.down(torch.sigmoid(gate) * rms_norm(gate * up, self.eps))
        return self.down(gated(both))

    def extra_repr(self) -> str:
        """The kind, for `print(model)`."""
        return "" if self.kind == "swiglu" else self.kind


class Attention(nn.Module):
    """Multi-head attention over all positions, not causal."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        q_BHSK, k_BHSK, v_BHSK = self.qkv(x_BSD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q_BHSK, k_BHSK = rotate(q_BHSK, rope), rotate(k_BHSK, rope)
        mixed_BHSK = F.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK)
        return self.out(mixed_BHSK.transpose(1, 2).flatten(-2))

    def extra_repr(self) -> str:
        """The number of heads, for `print(model)`."""
        return f"{self.num_heads} heads"


def rope_table(coordinates: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary position encoding, each float32 [S, head_size / 2].

    coordinates: [S, A], A coordinates of each position; each of them rotates an equal share of the head.
    """
    share = head_size // coordinates.shape[1]
    frequency = theta ** -(torch.arange(0, share, 2, dtype=torch.float32) / share)
    angle = (coordinates.float()[:, :, None] * frequency).flatten(1)
    return angle.cos(), angle.sin()


def grid_coordinates(prefix: int, height: int, width: int) -> Tensor:
    """Row and column of each position, from 1; 0 for the `prefix` tokens in front of the grid: [S, 2]."""
    cells = torch.cartesian_prod(torch.arange(1, height + 1), torch.arange(1, width + 1))
    return torch.cat((torch.zeros(prefix, 2, dtype=cells.dtype), cells))


def rotate(x_BHSK: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first half of each head against its second half, in float32; same shape and dtype as `x_BHSK`."""
    cos, sin = rope
    first, second = x_BHSK.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BHSK.dtype)


class Block(nn.Module):
    """x = rmsnorm(x + mix(x)); x = rmsnorm(x + swiglu(x)), where mix is attention or an MLP over the positions.

    The MLP variant computes the first equation, including its norm, on the transposed sequence [B, D, S].
    """

    def __init__(self, config: ModelParams, positions: int) -> None:
        super().__init__()
        self.mlp_t, self.eps = config.mlp_t, config.rms_norm_eps
        if config.mlp_t:
            self.mix = SwiGLU(positions, config.expansion, config.swiglu, self.eps)
        else:
            self.mix = Attention(config.block_width, config.block_heads)
        self.mlp = SwiGLU(config.block_width, config.expansion, config.swiglu, self.eps)

    def forward(self, x_BSD: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.mlp_t:
            x_BDS = x_BSD.transpose(1, 2).contiguous()  # one large matrix product instead of B small ones
            # A transposed view would make the next matrix product copy it with strides, in each half of a SwiGLU.
            x_BSD = rms_norm(x_BDS + self.mix(x_BDS), self.eps).transpose(1, 2).contiguous()
        else:
            x_BSD = rms_norm(x_BSD + self.mix(x_BSD, rope), self.eps)
        return rms_norm(x_BSD + self.mlp(x_BSD), self.eps)

    def extra_repr(self) -> str:
        """What mixes the positions, for `print(model)`."""
        return "MLP over positions" if self.mlp_t else "attention over positions"
