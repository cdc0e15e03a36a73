"""Linear maps in float32 on x86 processors that are not Intel's, computed by oneDNN.

PyTorch calls MKL for float32 products. MKL does not use AVX-512 on processors of AMD, where oneDNN is more than twice
as fast. On processors of Intel MKL is faster, for some gradients nearly twice (docs/results.md, Training speed).
bfloat16 products use oneDNN in PyTorch, too.
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trm.utils.device import is_intel

HAS_ONEDNN = (
    platform.machine().lower() in ("x86_64", "amd64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
"""True if oneDNN can compute float32 products on this machine."""
USES_ONEDNN = HAS_ONEDNN and not (torch.backends.mkl.is_available() and is_intel())
"""True if oneDNN computes float32 products on this machine: where it can, unless the processor is Intel's."""
_SMALLEST = 4096
"""Weights of the smallest map that oneDNN computes: a call takes 10 us longer than torch's. The size of the batch does
not count, as results would depend on it."""
_LIBRARY = torch.library.Library("trm", "DEF")
_LIBRARY.define("product(Tensor a, Tensor b) -> Tensor")


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")  # noqa: SLF001 - has no public name


_LIBRARY.impl("product", _onednn, "CPU")
# An operator of its own: torch.compile only accepts oneDNN's with constant weights.
torch.library.register_fake("trm::product", lambda a, b: a.new_empty((*a.shape[:-1], b.shape[0])), lib=_LIBRARY)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`: x [..., K], weight [N, K] and bias [N] or None, all of one dtype -> [..., N]."""
    uses_onednn = USES_ONEDNN and x.device.type == "cpu" and x.dtype is torch.float32 and bias is None and x.numel() > 0
    # An exported model runs without this module.
    if not uses_onednn or weight.numel() < _SMALLEST or torch.compiler.is_exporting():
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        return product(x, weight)
    return _Linear.apply(x, weight)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of float32 matrices a [..., K] and b [N, K], transposed: [..., N]. Without gradients."""
    return torch.ops.trm.product.default(a, b)


class _Linear(torch.autograd.Function):
    """x [..., K], weight [N, K] -> [..., N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - torch has no type of `ctx`
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        (N, K), rows, grads = weight.shape, x.flatten(0, -2), grad.flatten(0, -2)
        grad_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            # oneDNN is faster if the result has long rows.
            grad_weight = product(grads.t(), rows.t()) if K >= N else product(rows.t(), grads.t()).t()
        return grad_x, grad_weight
