"""Products by oneDNN: values and gradients against float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trm.models import linear as module
from trm.models.layers import gated
from trm.models.linear import linear

needs_onednn = pytest.mark.skipif(not module.HAS_ONEDNN, reason="oneDNN only computes products on x86 processors")


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN where it is available, on processors of Intel, too."""
    monkeypatch.setattr(module, "USES_ONEDNN", module.HAS_ONEDNN)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the results of oneDNN during the test."""
    seen: list[tuple[int, ...]] = []
    real = module.product

    def recorded(a: Tensor, b: Tensor) -> Tensor:
        result = real(a, b)
        seen.append(tuple(result.shape))
        return result

    monkeypatch.setattr(module, "product", recorded)
    return seen


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), requires_grad=True)


@needs_onednn
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "view"])
@pytest.mark.parametrize(("K", "N"), [(36, 256), (256, 36), (64, 64)])
def test_values_and_gradients(K: int, N: int, transposed: bool, products: list[tuple[int, ...]]) -> None:
    x = draw(4, K, 70).transpose(1, 2) if transposed else draw(4, 70, K)
    x.retain_grad()
    weight, grad = draw(N, K), draw(4, 70, N).detach()
    result = linear(x, weight, None)
    result.backward(grad)
    assert len(products) == 3
    x64, weight64 = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    expected = F.linear(x64, weight64)
    expected.backward(grad.double())
    for got, want in ((result, expected), (x.grad, x64.grad), (weight.grad, weight64.grad)):
        assert got is not None and want is not None
        assert torch.allclose(got.double(), want, rtol=0, atol=1e-6 * want.abs().max().item())


old_onednn = pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="oneDNN of torch 2.11: another kernel")


@needs_onednn
@pytest.mark.parametrize("rows", [pytest.param(7, marks=old_onednn), 36, 279])
def test_the_batch_size_does_not_change_a_bit(rows: int) -> None:
    x, weight = draw(280, 64).detach(), draw(512, 64).detach()
    whole = linear(x, weight, None)
    assert torch.equal(linear(x[:rows], weight, None), whole[:rows])


def test_another_library_computes_the_products_on_intel(
    products: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = draw(4, 70, 64), draw(64, 64)
    monkeypatch.setattr(module, "USES_ONEDNN", False)
    result = linear(x, weight, None)
    result.sum().backward()
    assert torch.equal(result, F.linear(x, weight)) and weight.grad is not None
    assert products == []


@needs_onednn
def test_only_the_gradients_that_are_needed(products: list[tuple[int, ...]]) -> None:
    x, weight = draw(4, 70, 64), draw(64, 64)
    with torch.no_grad():
        linear(x, weight, None)
    assert products == [(4, 70, 64)]
    products.clear()
    linear(x, weight.detach(), None).sum().backward()
    assert products == [(4, 70, 64)] * 2 and weight.grad is None
    products.clear()
    linear(x.detach(), weight, None).sum().backward()
    assert products == [(4, 70, 64), (64, 64)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_small_products_are_those_of_torch(dtype: torch.dtype, products: list[tuple[int, ...]]) -> None:
    x, weight, bias = draw(4, 70, 64).to(dtype), draw(64, 64).to(dtype), draw(64)
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))
    assert torch.equal(linear(x.float(), weight.float(), bias), F.linear(x.float(), weight.float(), bias))
    assert torch.equal(linear(x.float(), weight[:8].float(), None), F.linear(x.float(), weight[:8].float()))
    assert linear(x[:0].float(), weight.float(), None).shape == (0, 70, 64)
    assert products == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_is_the_product_of_both_halves(dtype: torch.dtype) -> None:
    x, grad = draw(3, 5, 16).detach().to(dtype).requires_grad_(), draw(3, 5, 8).detach().to(dtype)
    result = gated(x)
    result.backward(grad)
    other = x.detach().clone().requires_grad_()
    gate, up = other.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    expected.backward(grad)
    assert torch.equal(result, expected)
    assert x.grad is not None and other.grad is not None
    assert torch.equal(x.grad, other.grad)
    with torch.no_grad():
        assert torch.equal(gated(x), expected)
