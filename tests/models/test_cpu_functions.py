"""Products by oneDNN against torch's: values and gradients, on both ways there, for rows of every layout that a chain may bring."""

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from megatron_mplug2.models import cpu_functions, kernels

IN, OUT = 48, 80
FEW, MANY = 24, cpu_functions.AS_CONVOLUTION_FROM
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def _leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def _contiguous(rows: int) -> torch.Tensor:
    return _leaf(rows // 8, 8, IN)


def _transposed(rows: int) -> torch.Tensor:
    return _leaf(8, rows // 8, IN).transpose(0, 1)


def _expanded(rows: int) -> torch.Tensor:
    return _leaf(1, 8, IN).expand(rows // 8, 8, IN)


def _cut(rows: int) -> torch.Tensor:
    return _leaf(rows // 8, 8, 2 * IN)[..., IN:]


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("make", [_contiguous, _transposed, _expanded, _cut])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_torchs(rows: int, make: object, biased: bool) -> None:
    x, weight, bias = make(rows), _leaf(OUT, IN), _leaf(OUT) if biased else None  # type: ignore[operator]
    asked = [x, weight] if bias is None else [x, weight, bias]
    ours, plain = cpu_functions.linear(x, weight, bias), F.linear(x, weight, bias)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    incoming = torch.randn(plain.shape, generator=torch.Generator().manual_seed(7))
    for gradient in (incoming, incoming.transpose(0, 1).contiguous().transpose(0, 1), incoming[:1, :1].expand_as(incoming)):
        found = torch.autograd.grad(ours, asked, gradient, retain_graph=True)
        expected = torch.autograd.grad(plain, asked, gradient, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_only_what_is_trained_has_a_gradient(rows: int) -> None:
    x, weight, bias = _contiguous(rows).detach(), _leaf(OUT, IN).detach(), _leaf(OUT)
    cpu_functions.linear(x, weight, bias).sum().backward()
    assert x.grad is None and weight.grad is None and bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.full((OUT,), float(rows)))


def test_small_products_and_other_precisions_are_torchs() -> None:
    """Where oneDNN's call would cost more than its kernel saves, and where torch's product is oneDNN's already."""
    assert _kernel(_leaf(8, 16), _leaf(16, 16)) == "torch"
    assert _kernel(_leaf(64, 1024), _leaf(1024, 1024)) == "oneDNN"
    assert _kernel(_leaf(64, 1024).double(), _leaf(1024, 1024).double()) == "torch"


def _kernel(x: torch.Tensor, weight: torch.Tensor) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        kernels.linear(x, weight, None)
    return "oneDNN" if any(event.key.startswith("mkldnn::") for event in seen.key_averages()) else "torch"
