"""VLC over ranks and chunks against plain autograd over the full B x B matrix."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.objectives.contrastive import Contrast, clamp_log_temperature_, contrast, surrogate
from tests.ranks import run_ranks

BATCH, WIDTH = 24, 6
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


@dataclass(frozen=True)
class GlobalBatch:
    vision: torch.Tensor
    text: torch.Tensor
    ids: torch.Tensor
    log_temperature: torch.Tensor


def global_batch(dtype: torch.dtype, batch: int = BATCH, temperature: float = 0.07) -> GlobalBatch:
    """Features with media that come again, and meanings that come again with another medium; equality isn't transitive here."""
    generator = torch.Generator().manual_seed(3)
    vision, text = (F.normalize(torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    media = torch.randint(0, batch, (batch,), generator=generator)
    meaning = torch.randint(0, batch // 2, (batch,), generator=generator)
    log_temperature = torch.tensor(math.log(temperature), dtype=torch.float64)
    return GlobalBatch(vision.to(dtype), text.to(dtype), torch.stack([media, meaning], dim=1), log_temperature.to(dtype))


def reference(data: GlobalBatch) -> Contrast:
    """The definition, with the whole matrix, by autograd."""
    vision, text = (x.clone().requires_grad_() for x in (data.vision, data.text))
    log_temperature = data.log_temperature.clone().requires_grad_()
    logits = vision @ text.T / log_temperature.exp()
    media, meaning = data.ids.unbind(1)
    positive = (media[:, None] == media) | (meaning[:, None] == meaning)
    target = positive.to(logits.dtype) / positive.sum(dim=1, keepdim=True)
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    loss.backward()
    assert vision.grad is not None and text.grad is not None and log_temperature.grad is not None
    return Contrast(loss=loss.detach(), vision_grad=vision.grad, text_grad=text.grad, log_temperature_grad=log_temperature.grad)


def on_rank(data: GlobalBatch, chunk: int) -> Contrast:
    """This rank's share; equal shares, since a global batch is a multiple of microbatch x data-parallel size."""
    local = data.ids.shape[0] // dist.get_world_size()
    rows = slice(dist.get_rank() * local, (dist.get_rank() + 1) * local)
    return contrast(data.vision[rows], data.text[rows], data.ids[rows], data.log_temperature, dist.group.WORLD, chunk)


def chunks_on_rank(data: GlobalBatch, chunks: list[int]) -> list[Contrast]:
    return [on_rank(data, chunk) for chunk in chunks]


def assert_equals(parts: list[Contrast], expected: Contrast, dtype: torch.dtype) -> None:
    """`parts`: one of each rank; compares values relative to the largest of the reference."""
    got = {
        "loss": parts[0].loss,
        "vision_grad": torch.cat([part.vision_grad for part in parts]),
        "text_grad": torch.cat([part.text_grad for part in parts]),
        "log_temperature_grad": torch.stack([part.log_temperature_grad for part in parts]).sum(),
    }
    for name, value in got.items():
        other = getattr(expected, name)
        assert value.dtype == dtype and value.shape == other.shape, name
        error = ((value - other).abs().max() / other.abs().max()).item()
        assert error < TOLERANCE[dtype], f"{name}: {error}"


def test_the_batch_has_several_kinds_of_positives() -> None:
    media, meaning = global_batch(torch.float64).ids.unbind(1)
    same_media, same_meaning = media[:, None] == media, meaning[:, None] == meaning
    assert (same_media & ~same_meaning).any() and (same_meaning & ~same_media).any()
    counts = (same_media | same_meaning).sum(dim=1)
    assert counts.min() == 1 and counts.max() >= 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_equals_autograd_over_the_full_matrix(world_size: int, dtype: torch.dtype) -> None:
    data, chunks = global_batch(dtype), [1, 3, 4096]
    results = run_ranks(world_size, chunks_on_rank, data, chunks)
    expected = reference(data)
    for index in range(len(chunks)):
        parts = [of_rank[index] for of_rank in results]
        assert_equals(parts, expected, dtype)
        assert all(torch.equal(part.loss, parts[0].loss) for part in parts)


@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_one_process_needs_no_process_group(chunk: int) -> None:
    data = global_batch(torch.float64)
    assert_equals([contrast(data.vision, data.text, data.ids, data.log_temperature, None, chunk)], reference(data), torch.float64)


def test_order_of_samples_has_no_influence() -> None:
    """Layouts put the samples of one global batch on ranks and rows in different orders."""
    data = global_batch(torch.float64)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    shuffled = GlobalBatch(data.vision[order], data.text[order], data.ids[order], data.log_temperature)
    results = run_ranks(2, on_rank, shuffled, 5)
    expected = reference(data)
    in_order = Contrast(
        loss=expected.loss,
        vision_grad=expected.vision_grad[order],
        text_grad=expected.text_grad[order],
        log_temperature_grad=expected.log_temperature_grad,
    )
    assert_equals(results, in_order, torch.float64)


def test_sharp_temperature_stays_finite_and_right() -> None:
    """At the lower clamp, 0.001, logits reach 1000: their exponentials overflow without the log-sum-exp's maximum."""
    data = global_batch(torch.float32, temperature=0.001)
    got = contrast(data.vision, data.text, data.ids, data.log_temperature, None, 4)
    exact = reference(global_batch(torch.float64, temperature=0.001))
    assert got.loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)
    torch.testing.assert_close(got.vision_grad.double(), exact.vision_grad, rtol=0, atol=1e-4 * exact.vision_grad.abs().max().item())


def test_bf16_features_are_contrasted_in_fp32() -> None:
    data = global_batch(torch.float32)
    vision, text = data.vision.bfloat16(), data.text.bfloat16()
    rounded = GlobalBatch(vision.float(), text.float(), data.ids, data.log_temperature)
    got = contrast(vision, text, data.ids, data.log_temperature, None, 7)
    assert_equals([got], reference(rounded), torch.float32)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def largest_tensor(data: GlobalBatch, chunk: int) -> int:
    with Largest() as largest:
        on_rank(data, chunk)
    return largest.elements


@pytest.mark.parametrize("chunk", [4, 32])
def test_no_tensor_is_larger_than_a_block_or_the_features(chunk: int) -> None:
    batch, local = 128, 64
    largest = run_ranks(2, largest_tensor, global_batch(torch.float32, batch=batch), chunk)
    bound = max(local * chunk, batch * WIDTH)
    assert largest == [bound, bound]
    assert bound < local * batch


def test_surrogate_hands_over_the_cached_gradients() -> None:
    """Two microbatches of features, each with its rows of the gradient and half of the temperature's."""
    data = global_batch(torch.float64)
    expected = reference(data)
    cached = contrast(data.vision, data.text, data.ids, data.log_temperature, None, 8)
    vision, text = (x.clone().requires_grad_() for x in (data.vision, data.text))
    log_temperature = data.log_temperature.clone().requires_grad_()
    for rows in (slice(0, 12), slice(12, 24)):
        share = surrogate(
            vision[rows],
            text[rows],
            log_temperature,
            cached.vision_grad[rows],
            cached.text_grad[rows],
            cached.log_temperature_grad / 2,
        )
        assert share.item() == 0
        (3.0 * share).backward()
    for got, wanted in (
        (vision.grad, expected.vision_grad),
        (text.grad, expected.text_grad),
        (log_temperature.grad, expected.log_temperature_grad),
    ):
        torch.testing.assert_close(got, 3.0 * wanted, rtol=1e-11, atol=1e-14)


def test_temperature_is_clamped_in_place() -> None:
    config = VLCConfig(temperature=0.07, min_temperature=0.01, max_temperature=0.5)
    for temperature, kept in ((0.001, 0.01), (0.07, 0.07), (2.0, 0.5)):
        parameter = torch.nn.Parameter(torch.tensor(math.log(temperature)))
        clamp_log_temperature_(parameter, config)
        assert parameter.exp().item() == pytest.approx(kept, rel=1e-6)
