"""The Triton kernels against torch's functions: on a GPU, or with TRITON_INTERPRET=1 in Triton's interpreter, where that is installed."""

import os

import pytest
import torch
from torch.nn import functional as F

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU here", allow_module_level=True)
gpu_functions = pytest.importorskip("megatron_mplug2.models.gpu_functions", reason="no Triton here", exc_type=ImportError)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TYPES = [torch.float32, torch.bfloat16]


def _drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(DEVICE, dtype).requires_grad_()


def _exact(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def _close(ours: torch.Tensor, exact: torch.Tensor) -> None:
    """Within the rounding of one number of ours, and of the sums that lead to it."""
    allowed = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[ours.dtype]
    torch.testing.assert_close(ours.double(), exact, rtol=allowed, atol=allowed * float(exact.detach().abs().max()))


def _gradients(outs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    weights = [_drawn(*out.shape, dtype=torch.float32, seed=5 + place).detach().to(out.dtype) for place, out in enumerate(outs)]
    return torch.autograd.grad(outs, inputs, weights)


@pytest.mark.parametrize("dtype", TYPES)
def test_quick_gelu(dtype: torch.dtype) -> None:
    x = (8 * _drawn(3, 7, 413, dtype=dtype)).detach().requires_grad_()
    (exact,) = _exact(x)
    ours, plain = gpu_functions.QuickGelu.apply(x), exact * torch.sigmoid(1.702 * exact)
    _close(ours, plain)
    _close(*_gradients((ours,), [x]), *_gradients((plain,), [exact]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("frames", "width"), [(1, 16), (2, 24), (5, 48)])
def test_temporal_convolution(frames: int, width: int, dtype: torch.dtype) -> None:
    inputs = [_drawn(3, 2, frames, width, dtype=dtype), _drawn(width, 3, dtype=dtype, seed=1), _drawn(width, dtype=dtype, seed=2)]
    clip, taps, bias = exact = _exact(*inputs)
    ours = gpu_functions.TemporalConvolution.apply(*inputs)
    convolved = F.conv1d(clip.permute(0, 1, 3, 2).flatten(0, 1), taps[:, None], bias, padding=1, groups=width)
    plain = (convolved * torch.sigmoid(1.702 * convolved)).unflatten(0, (3, 2)).permute(0, 1, 3, 2)
    _close(ours, plain)
    for one, other in zip(_gradients((ours,), inputs), _gradients((plain,), exact), strict=True):
        _close(one, other)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 48])
@pytest.mark.parametrize(("adds", "shows"), [(False, False), (True, False), (True, True)])
def test_add_norm(adds: bool, shows: bool, width: int, dtype: torch.dtype) -> None:
    shape = 5, 3, width
    inputs = [_drawn(*shape, dtype=dtype), _drawn(width, dtype=dtype, seed=1), _drawn(width, dtype=dtype, seed=2)]
    inputs += [_drawn(*shape, dtype=dtype, seed=3)] if adds else []
    x, weight, bias, *branch = exact = _exact(*inputs)
    shown = torch.tensor([0, 1, 1, 1, 0], dtype=dtype, device=DEVICE)[:, None, None] if shows else None
    ours = gpu_functions.AddNorm.apply(inputs[0], inputs[3] if adds else None, shown, inputs[1], inputs[2], 1e-5)
    total = x + branch[0] * (1 if shown is None else shown.double()) if adds else x
    plain = total, F.layer_norm(total, (width,), weight, bias, 1e-5)
    for one, other in zip(ours, plain, strict=True):
        _close(one, other)
    for one, other in zip(_gradients(ours, inputs), _gradients(plain, exact), strict=True):
        _close(one, other)


@pytest.mark.parametrize("shows", [False, True])
@pytest.mark.parametrize("used", [0, 1])
def test_add_norm_of_which_one_output_is_used(used: int, shows: bool) -> None:
    """The sum alone at a model's end, the norm alone after it."""
    x, branch = _drawn(4, 3, 32, dtype=torch.float32), _drawn(4, 3, 32, dtype=torch.float32, seed=3)
    weight, bias = _drawn(32, dtype=torch.float32, seed=1), _drawn(32, dtype=torch.float32, seed=2)
    shown = torch.tensor([0.0, 1.0, 1.0, 0.0], device=DEVICE)[:, None, None] if shows else None
    total = x + branch * (1.0 if shown is None else shown)
    plain = (total, F.layer_norm(total, (32,), weight, bias, 1e-5))[used]
    ours = gpu_functions.AddNorm.apply(x, branch, shown, weight, bias, 1e-5)[used]
    for one, other in zip(_gradients((ours,), [x, branch]), _gradients((plain,), [x, branch]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", TYPES)
def test_selected_rows(dtype: torch.dtype) -> None:
    both = _drawn(4, 3, 2, 2 * 24, dtype=dtype).detach()
    keys, index = both[..., 24:], torch.tensor([2, 0, 0, 2, 1], device=DEVICE)
    assert torch.equal(gpu_functions.select_rows(keys, index), keys.index_select(1, index))
