"""Hand-written passes against what autograd makes of the plain formulas."""

import importlib.util
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.models import kernels

GENERATOR = torch.Generator().manual_seed(0)


def _gradients(out: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * weight).sum(), inputs)


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64).requires_grad_()


def test_quick_gelu() -> None:
    x = (8 * _drawn(5, 7, 11)).detach().requires_grad_()
    before, plain = x.detach().clone(), x * torch.sigmoid(1.702 * x)
    ours = kernels.quick_gelu(x)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(_gradients(ours, x), _gradients(plain, x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_convolution_is_torchs_depthwise_one(frames: int) -> None:
    clip, taps, bias = _drawn(3, 2, frames, 4), _drawn(4, 3), _drawn(4)
    ours = kernels.temporal_convolution(clip, taps, bias)
    series = clip.permute(0, 1, 3, 2).flatten(0, 1)  # [s * b, c, T]
    convolved = F.conv1d(series, taps[:, None], bias, padding=1, groups=4)
    plain = (convolved * torch.sigmoid(1.702 * convolved)).unflatten(0, (3, 2)).permute(0, 1, 3, 2)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(_gradients(ours, clip, taps, bias), _gradients(plain, clip, taps, bias))


def test_selected_rows_have_index_selects_gradient() -> None:
    x, index = _drawn(3, 4, 2, 5), torch.tensor([2, 0, 0, 3, 2, 2])  # row 1 is in none
    plain, ours = x.index_select(1, index), kernels._SelectRows.apply(x, index)
    assert torch.equal(ours, plain) and torch.equal(kernels.select_rows(x, index), plain)
    torch.testing.assert_close(_gradients(ours, x), _gradients(plain, x))


def test_no_triton_where_it_cannot_build_its_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It needs a C compiler, and Python's headers, which a machine with a compiler may lack: what is missing is told."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    has_compilers = kernels._has_compilers.__wrapped__
    (tmp_path / "Python.h").touch()
    assert not has_compilers() and "for want of a C compiler:" in caplog.text
    caplog.clear()
    (tmp_path / "gcc").touch(mode=0o755)
    assert has_compilers() and not caplog.text
    (tmp_path / "Python.h").unlink()
    assert not has_compilers() and "for want of Python.h:" in caplog.text
