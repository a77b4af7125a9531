"""Universal layers beyond the released two: a third one, and what each use may see."""

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.universal import UniversalLayer
from tests.models.build import LAYOUTS, Built, build, randomise
from tests.ranks import run_ranks

TEXT = TextConfig(hidden=32, heads=2, ffn=48, layers=5, universal_layers=3, queries=7, vocab_size=50, positions=16)
MODEL = ModelConfig(
    vision=VisionConfig(width=32, blocks=1, heads=2, ffn=48, patch=4, resolution=12), text=TEXT, fusion_layers=1, decoder_layers=1
)
LENGTH, SAMPLES, TEXT_LENGTH = 11, 2, 5


def _layers(built: Built) -> list[UniversalLayer]:
    blocks = [built.stage.block(f"universal.layers.{index}") for index in range(TEXT.universal_layers)]
    return [block for block in blocks if isinstance(block, UniversalLayer)]


def _visual() -> torch.Tensor:
    return torch.randn(LENGTH, SAMPLES, TEXT.hidden, generator=torch.Generator().manual_seed(0))


def _text() -> torch.Tensor:
    return torch.randn(TEXT_LENGTH, SAMPLES, TEXT.hidden, generator=torch.Generator().manual_seed(1))


def _image_embeds(layers: list[UniversalLayer], visual: torch.Tensor) -> torch.Tensor:
    queries = None
    for layer in layers[:-1]:
        queries = layer.refine_queries(queries, visual, LENGTH)
    assert queries is not None
    return layers[-1].broadcast_queries(queries, visual, LENGTH)


def _reference(layers: list[UniversalLayer], visual: torch.Tensor) -> torch.Tensor:
    """Section 1.4 of the released code, with the BERT layers given."""
    assert not layers[1].first
    assert not layers[1].last
    everything = AttentionMask()
    queries = layers[0].queries[:, None].expand(-1, SAMPLES, -1)
    for layer in layers[:2]:
        queries = layer.layer(queries, everything, visual, everything)
    updated = layers[2].layer(visual, everything, queries, everything)
    norm = layers[2].visual_norm
    return F.layer_norm(visual + updated, (TEXT.hidden,), norm.weight, norm.bias, 1e-12)


def _three_layers(layout: LayoutConfig) -> tuple[torch.Tensor, torch.Tensor | None]:
    built = build(MODEL, layout)
    randomise(built)
    layers, sequence = _layers(built), built.context.sequence
    out = _image_embeds(layers, sequence.scatter(_visual()))
    reference = _reference(layers, _visual()) if layout.tensor == 1 else None
    return sequence.gather(out, LENGTH).detach(), reference.detach() if reference is not None else None


@pytest.mark.parametrize("name", LAYOUTS)
def test_queries_are_refined_by_all_layers_but_the_last(name: str) -> None:
    """At 7 queries and 11 visual tokens both need padding on two ranks."""
    ((_, reference),) = run_ranks(1, _three_layers, LAYOUTS["TP1"])
    for out, _ in run_ranks(LAYOUTS[name].world_size, _three_layers, LAYOUTS[name]):
        torch.testing.assert_close(out, reference, atol=1e-5, rtol=0)


def _uses_together() -> None:
    built = build(MODEL, LayoutConfig())
    randomise(built)
    mask = AttentionMask(keys=torch.ones(SAMPLES, TEXT_LENGTH, dtype=torch.bool))
    text, visual, queries = _text(), _visual(), None
    for layer in _layers(built):
        expected_text = layer.text(text, mask)
        text, queries = layer(text, mask, visual, queries, LENGTH)
        assert torch.equal(text, expected_text)
    assert queries is not None
    assert torch.equal(queries, _image_embeds(_layers(built), visual))


def test_one_call_makes_both_uses() -> None:
    run_ranks(1, _uses_together)


def _gradients_of_text() -> None:
    """Text trains the shared self-attention and FFN, and nothing of vision's own."""
    built = build(MODEL, LayoutConfig())
    randomise(built)
    mask, x = AttentionMask(), _text()
    for layer in _layers(built):
        x = layer.text(x, mask)
    x.square().sum().backward()
    for weight in built.weights:
        if weight.name.startswith("universal."):
            own = any(part in weight.name for part in ("cross_attention", "queries", "visual_norm"))
            assert (weight.param.grad is None) == own, weight.name


def test_text_skips_the_cross_attention() -> None:
    run_ranks(1, _gradients_of_text)


def _gradients_of_vision() -> None:
    built = build(MODEL, LayoutConfig())
    randomise(built)
    _image_embeds(_layers(built), _visual()).square().sum().backward()
    for weight in built.weights:
        if weight.name.startswith("universal."):
            assert weight.param.grad is not None and bool(weight.param.grad.any()), weight.name


def test_vision_trains_all_of_the_universal_layers() -> None:
    run_ranks(1, _gradients_of_vision)
