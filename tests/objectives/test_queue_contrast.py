"""VLC against momentum features and a queue: equal to plain autograd over the whole matrix, in parts and in chunks."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.config.objectives import QueueConfig
from megatron_mplug2.objectives.key_queue import Keys
from megatron_mplug2.objectives.queue_contrast import PartialContrast, alpha_at, contrast_with_keys
from tests.objectives.test_contrastive import TOLERANCE, Largest

BATCH, QUEUED, WIDTH = 12, 20, 6
ALPHA = 0.4


@dataclass(frozen=True, kw_only=True)
class Case:
    vision: torch.Tensor
    text: torch.Tensor
    own: Keys
    queue: Keys
    log_temperature: torch.Tensor


def case(dtype: torch.dtype = torch.float64, *, queued: int = QUEUED, temperature: float = 0.07, batch: int = BATCH) -> Case:
    """Ids come again, in the batch and in the queue; momentum features lie near the live ones."""
    generator = torch.Generator().manual_seed(5)

    def features(count: int) -> torch.Tensor:
        return F.normalize(torch.randn(count, WIDTH, generator=generator, dtype=torch.float64), dim=1)

    def keys(vision: torch.Tensor, text: torch.Tensor) -> Keys:
        ids = torch.randint(0, batch, (len(vision), 2), generator=generator) + torch.tensor([0, 1000])
        return Keys(vision=vision.to(dtype), text=text.to(dtype), ids=ids)

    vision, text = features(batch), features(batch)
    own = keys(F.normalize(vision + 0.3 * features(batch), dim=1), F.normalize(text + 0.3 * features(batch), dim=1))
    queue = keys(features(queued), features(queued))
    log_temperature = torch.tensor(math.log(temperature), dtype=dtype)
    return Case(vision=vision.to(dtype), text=text.to(dtype), own=own, queue=queue, log_temperature=log_temperature)


def reference(case: Case, alpha: float = ALPHA) -> PartialContrast:
    """The definition, with whole matrices, by autograd."""
    vision, text, log_temperature = (x.clone().requires_grad_() for x in (case.vision, case.text, case.log_temperature))
    ids = torch.cat([case.own.ids, case.queue.ids])
    same = (case.own.ids[:, None] == ids[None]).any(dim=2).to(vision.dtype)
    same = same / same.sum(dim=1, keepdim=True)

    def half(live: torch.Tensor, own: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        soft = (own @ keys.T / log_temperature.exp()).softmax(dim=1).detach()
        return F.cross_entropy(live @ keys.T / log_temperature.exp(), alpha * soft + (1 - alpha) * same)

    to_texts = half(vision, case.own.vision, torch.cat([case.own.text, case.queue.text]))
    loss = (to_texts + half(text, case.own.text, torch.cat([case.own.vision, case.queue.vision]))) / 2
    loss.backward()
    assert vision.grad is not None and text.grad is not None and log_temperature.grad is not None
    return PartialContrast(loss=loss.detach(), vision_grad=vision.grad, text_grad=text.grad, log_temperature_grad=log_temperature.grad)


def in_parts(case: Case, parts: int, chunk: int, alpha: float = ALPHA) -> PartialContrast:
    """Solved for `parts` equal ranges of samples, one after another."""
    size = len(case.vision) // parts
    results = [
        contrast_with_keys(
            case.vision[start : start + size],
            case.text[start : start + size],
            case.own.rows(start, start + size),
            (case.own, case.queue),
            case.log_temperature,
            alpha=alpha,
            batch=len(case.vision),
            chunk=chunk,
        )
        for start in range(0, len(case.vision), size)
    ]
    return PartialContrast(
        loss=torch.stack([result.loss for result in results]).sum(),
        vision_grad=torch.cat([result.vision_grad for result in results]),
        text_grad=torch.cat([result.text_grad for result in results]),
        log_temperature_grad=torch.stack([result.log_temperature_grad for result in results]).sum(),
    )


def assert_equals(got: PartialContrast, wanted: PartialContrast, dtype: torch.dtype) -> None:
    """Relative to the largest of the reference."""
    for name in ("loss", "vision_grad", "text_grad", "log_temperature_grad"):
        value, other = getattr(got, name), getattr(wanted, name)
        assert value.dtype == dtype and value.shape == other.shape, name
        error = float((value - other).abs().max() / other.abs().max())
        assert error < TOLERANCE[dtype], f"{name}: {error}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("parts", "chunk"), [(1, 4096), (3, 5), (12, 1)])
def test_equals_autograd_over_the_whole_matrix(parts: int, chunk: int, dtype: torch.dtype) -> None:
    assert_equals(in_parts(case(dtype), parts, chunk), reference(case(dtype)), dtype)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_hard_or_soft_targets_alone(alpha: float) -> None:
    assert_equals(in_parts(case(), 3, 5, alpha), reference(case(), alpha), torch.float64)


def test_an_empty_queue_leaves_the_batch() -> None:
    young = case(queued=0)
    assert_equals(in_parts(young, 2, 5), reference(young), torch.float64)


def test_equal_ids_in_the_queue_are_positives() -> None:
    """Which the reference says too; here that the case has some, and that they count."""
    plain = case()
    assert (plain.own.ids[:, None] == plain.queue.ids[None]).any()
    strangers = replace(plain, queue=replace(plain.queue, ids=plain.queue.ids - 5000))
    assert float(in_parts(strangers, 1, 5).loss - in_parts(plain, 1, 5).loss) < -0.01


def test_sharp_temperature_stays_finite_and_right() -> None:
    """At the lower clamp logits reach 1000: their exponentials overflow without the running maximum."""
    got, exact = in_parts(case(torch.float32, temperature=0.001), 2, 3), reference(case(temperature=0.001))
    assert got.loss.item() == pytest.approx(exact.loss.item(), rel=1e-5)
    torch.testing.assert_close(got.vision_grad.double(), exact.vision_grad, rtol=0, atol=1e-4 * exact.vision_grad.abs().max().item())


def test_bf16_features_are_contrasted_in_fp32() -> None:
    plain = case(torch.float32)
    rounded = replace(plain, vision=plain.vision.bfloat16(), text=plain.text.bfloat16())
    wanted = reference(replace(plain, vision=rounded.vision.float(), text=rounded.text.float()))
    assert_equals(in_parts(rounded, 1, 7), wanted, torch.float32)


def test_no_tensor_is_larger_than_a_block_or_a_key_matrix() -> None:
    large = case(torch.float32, batch=64, queued=512)
    with Largest() as largest:
        in_parts(large, 2, 96)
    assert largest.elements == 32 * 96 < 32 * (64 + 512)


def test_alpha_rises_linearly_and_stays() -> None:
    config = QueueConfig(alpha=0.4, alpha_ramp_steps=8)
    assert [alpha_at(config, step) for step in (0, 2, 8, 100)] == pytest.approx([0.0, 0.1, 0.4, 0.4])
    assert alpha_at(QueueConfig(alpha=0.4, alpha_ramp_steps=0), 0) == 0.4
