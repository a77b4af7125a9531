"""Attention with dropout on a CPU against torch's own, and against the same steps written out."""

from math import sqrt

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.models import cpu_attention
from megatron_mplug2.models.cpu_attention import DroppedAttention
from megatron_mplug2.parallel.dropout import draw_kept

SAMPLES, HEADS, QUERIES, KEYS, WIDTH = 3, 4, 6, 10, 8
PART = HEADS * QUERIES * KEYS // 2
SEED = 11

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _inputs(dtype: torch.dtype = torch.float64, queries: int = QUERIES) -> Inputs:
    """Laid out as Megatron-Core's attention brings them: [s, b, heads, width], seen as [b, heads, s, width]."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(length, SAMPLES, HEADS, WIDTH) for length in (queries, KEYS, KEYS)]
    query, key, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).permute(1, 2, 0, 3).requires_grad_() for shape in shapes
    )
    return query, key, value


def _ours(inputs: Inputs, mask: torch.Tensor | None = None, probability: float = 0.0) -> torch.Tensor:
    torch.manual_seed(SEED)
    out: torch.Tensor = DroppedAttention.apply(*inputs, mask, probability)
    return out


def _written_out(inputs: Inputs, mask: torch.Tensor | None, probability: float) -> torch.Tensor:
    query, key, value = inputs
    scores = query @ key.mT / sqrt(WIDTH)
    shares = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    torch.manual_seed(SEED)
    kept, grown = draw_kept(shares.shape, probability)
    return (shares * kept * grown) @ value


def _with_gradients(out: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out.dtype)
    return out, *torch.autograd.grad(out, inputs, incoming)


def _causal() -> torch.Tensor:
    return torch.ones(KEYS, KEYS, dtype=torch.bool).tril()


def _padded() -> torch.Tensor:
    return (torch.arange(KEYS) < torch.tensor([[KEYS], [4], [1]]))[:, None, None, :]


@pytest.fixture(params=[cpu_attention.IN_CACHE, PART, 1], ids=["whole", "halves of a sample", "single heads"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "IN_CACHE", request.param)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("queries", "mask"), [(QUERIES, None), (QUERIES, _padded()), (KEYS, _causal()), (KEYS, _causal() & _padded())])
def test_without_a_dropped_share_it_is_torchs(queries: int, mask: torch.Tensor | None) -> None:
    inputs = _inputs(queries=queries)
    ours = _with_gradients(_ours(inputs, mask), inputs)
    torch.testing.assert_close(ours, _with_gradients(F.scaled_dot_product_attention(*inputs, attn_mask=mask), inputs))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("mask", [None, _padded()])
def test_what_is_dropped_is_what_was_drawn(mask: torch.Tensor | None) -> None:
    inputs = _inputs()
    ours, plain = _with_gradients(_ours(inputs, mask, 0.3), inputs), _with_gradients(_written_out(inputs, mask, 0.3), inputs)
    torch.testing.assert_close(ours, plain)
    assert not torch.allclose(ours[0], _ours(inputs, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Of values up to 3, whose steps in half precision are of 1/64, each the sum of a few rounded ones."""
    inputs = _inputs(dtype)
    query, key, value = (x.detach().double().requires_grad_() for x in inputs)
    exact = query, key, value
    ours = _with_gradients(_ours(inputs, _padded(), 0.3), inputs)
    assert {x.dtype for x in ours} == {dtype}
    expected = _with_gradients(_written_out(exact, _padded(), 0.3), exact)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close([x.double() for x in ours], list(expected), rtol=tolerance, atol=tolerance)


def test_a_query_without_a_key_gets_nothing() -> None:
    inputs = _inputs()
    mask = torch.ones(SAMPLES, 1, 1, KEYS, dtype=torch.bool)
    mask[1] = False
    out, *gradients = _with_gradients(_ours(inputs, mask, 0.3), inputs)
    assert not out[1].any()
    assert out[0].any()
    assert all(bool(gradient.isfinite().all()) and not gradient[1].any() for gradient in gradients)


def test_what_is_no_number_stays_so() -> None:
    query, key, value = _inputs()
    with torch.no_grad():
        key[0, 0, 0, 0] = torch.nan
    out = _ours((query, key, value), _padded(), 0.3)
    assert out[0, 0].isnan().all()
    assert out[0, 1:].isfinite().all()


def test_second_derivatives_are_refused() -> None:
    inputs = _inputs()
    (gradient,) = torch.autograd.grad(_ours(inputs, None, 0.3).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
