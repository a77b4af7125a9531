"""Products by oneDNN against torch's: values and gradients, on both ways there, for rows of every layout that a chain may bring."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from megatron_mplug2.models import cpu_functions, kernels

IN, OUT = 48, 80
FEW, MANY = 24, cpu_functions.MANY
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


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    ours: torch.Tensor = cpu_functions.Linear.apply(x, weight, bias)
    return ours


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("make", [_contiguous, _transposed, _expanded, _cut])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_torchs(rows: int, make: Callable[[int], torch.Tensor], biased: bool) -> None:
    x, weight, bias = make(rows), _leaf(OUT, IN), _leaf(OUT) if biased else None
    asked = [x, weight] if bias is None else [x, weight, bias]
    ours, plain = _linear(x, weight, bias), F.linear(x, weight, bias)
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
    _linear(x, weight, bias).sum().backward()
    assert x.grad is None and weight.grad is None and bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.full((OUT,), float(rows)))


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_the_same_bits_every_time(rows: int) -> None:
    """VLC's two passes compare features bit by bit, and so do runs that were stopped and went on."""
    assert _bits(rows) == _bits(rows)


def _bits(rows: int) -> list[bytes]:
    x, weight, bias = _contiguous(rows), _leaf(OUT, IN), _leaf(OUT)
    out = _linear(x, weight, bias)
    return [tensor.detach().numpy().tobytes() for tensor in (out, *torch.autograd.grad(out.square().sum(), [x, weight, bias]))]


def test_a_second_derivative_is_refused() -> None:
    x, weight = _contiguous(FEW), _leaf(OUT, IN)
    (first,) = torch.autograd.grad(_linear(x, weight, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_who_makes_a_product() -> None:
    """Torch where oneDNN's call would cost more than its kernel saves, and in other precisions, where its product is oneDNN's already."""
    assert _kernels(_leaf(8, 16), _leaf(16, 16)) == set()
    assert _kernels(_leaf(MANY, 512).double(), _leaf(512, 512).double()) == set()
    product, as_layer = "mkldnn::_linear_pointwise", "aten::mkldnn_linear_backward_weights"
    assert _kernels(_leaf(64, 1024), _leaf(1024, 1024)) == {product}
    assert _kernels(_leaf(MANY, 512), _leaf(512, 512)) == {product, as_layer}


def _kernels(x: torch.Tensor, weight: torch.Tensor) -> set[str]:
    """OneDNN's, forward and backward."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        kernels.linear(x, weight, None).sum().backward()
    return {event.key for event in seen.key_averages() if "mkldnn_linear" in event.key or event.key.startswith("mkldnn::")}
