"""The dual-vision encoder beyond what the released models exercise: other resolutions, pictures, one temporal module, drop path."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.models.vision import LocalTemporal, VisionBlock, VisionEmbedding, VisionOutput
from tests.models.build import LAYOUTS, Built, build, randomise
from tests.ranks import run_ranks

VISION = VisionConfig(width=32, blocks=3, heads=2, ffn=48, patch=4, resolution=12)
MODEL = ModelConfig(
    vision=VISION,
    text=TextConfig(hidden=32, heads=2, ffn=48, layers=3, queries=4, vocab_size=50, positions=16),
    fusion_layers=1,
    decoder_layers=1,
)
FRAMES, TOKENS, CLIPS = 3, 10, 2


def _model(**vision: object) -> ModelConfig:
    return MODEL.model_copy(update={"vision": VISION.model_copy(update=vision)})


def _on_one_rank(check: Callable[[Built], None], model: ModelConfig = MODEL) -> None:
    run_ranks(1, _checked, check, model)


def _checked(check: Callable[[Built], None], model: ModelConfig) -> None:
    built = build(model, LayoutConfig())
    randomise(built)
    check(built)


def _block(built: Built, index: int = 0) -> VisionBlock:
    block = built.stage.block(f"vision.blocks.{index}")
    assert isinstance(block, VisionBlock)
    return block


def _frames(tokens: int = TOKENS) -> torch.Tensor:
    return torch.randn(tokens, CLIPS * FRAMES, VISION.width, generator=torch.Generator().manual_seed(0))


def _embedding_of_frames(built: Built) -> None:
    embedding = built.stage.block("vision.embedding")
    assert isinstance(embedding, VisionEmbedding)
    media = torch.randn(CLIPS, 3, FRAMES, 12, 12)
    together = embedding(media)
    assert together.shape == (TOKENS, CLIPS * FRAMES, VISION.width)
    for clip in range(CLIPS):
        for frame in range(FRAMES):
            alone = embedding(media[clip : clip + 1, :, frame : frame + 1])
            torch.testing.assert_close(together[:, clip * FRAMES + frame], alone[:, 0])


def test_frames_of_a_clip_lie_next_to_each_other() -> None:
    _on_one_rank(_embedding_of_frames)


def _embedding_of_other_sizes(built: Built) -> None:
    embedding = built.stage.block("vision.embedding")
    assert isinstance(embedding, VisionEmbedding)
    media = torch.randn(1, 3, 1, 20, 20)
    with torch.no_grad():
        embedding.patch.zero_()
        embedding.class_token.zero_()
        out = embedding(media)[:, 0]
    table = embedding.position[1:].detach().reshape(3, 3, -1).permute(2, 0, 1)[None]
    larger = F.interpolate(table, size=(5, 5), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).reshape(25, -1)
    expected = F.layer_norm(
        torch.cat([embedding.position[:1].detach(), larger]), (VISION.width,), embedding.norm.weight, embedding.norm.bias, 1e-5
    )
    torch.testing.assert_close(out, expected)


def test_the_position_table_is_resized_for_other_resolutions() -> None:
    _on_one_rank(_embedding_of_other_sizes)


def _temporal_as_convolutions(built: Built) -> None:
    block, x = _block(built), _frames()
    temporal = block.temporal[0]
    assert isinstance(temporal, LocalTemporal)
    branch = temporal(temporal.norm(x)[1], FRAMES)
    assert block._patches(TOKENS, x).flatten().tolist() == [0.0] + [1.0] * (TOKENS - 1)  # the class token has no branch
    clip = temporal.norm(x[1:])[1].unflatten(1, (CLIPS, FRAMES)).permute(1, 3, 2, 0)[..., None]  # [b, C, T, patches, 1]
    y = F.conv3d(clip, temporal.down.weight[..., None, None, None], temporal.down.bias)
    kernel = temporal.taps[:, None, :, None, None]
    y = F.conv3d(y, kernel, temporal.taps_bias, padding=(1, 0, 0), groups=VISION.width // 2)
    y = y * torch.sigmoid(1.702 * y)
    y = F.conv3d(y, temporal.up.weight[..., None, None, None], temporal.up.bias)
    expected = y[..., 0].permute(3, 0, 2, 1).flatten(1, 2)
    torch.testing.assert_close(branch[1:], expected)


def test_a_temporal_module_is_three_convolutions() -> None:
    _on_one_rank(_temporal_as_convolutions)


def _information_between_frames(built: Built) -> None:
    block, x = _block(built), _frames()
    other = x.clone()
    other[:, 1] += 1.0  # the second frame of the first clip
    for temporal in (False, True):
        same = torch.isclose(block(x, FRAMES, TOKENS, temporal=temporal), block(other, FRAMES, TOKENS, temporal=temporal)).all(2).all(0)
        neighbours = not temporal
        assert same.tolist() == [neighbours, False, neighbours, True, True, True]


def test_frames_meet_in_temporal_modules_only_and_clips_never() -> None:
    _on_one_rank(_information_between_frames)


def _a_picture(built: Built) -> None:
    """At one frame only the middle tap is left."""
    block, x = _block(built), _frames()[:, :CLIPS]
    expected = block(x, 1, TOKENS, temporal=True)
    with torch.no_grad():
        for temporal in block.temporal:
            assert isinstance(temporal, LocalTemporal)
            temporal.taps[:, 0], temporal.taps[:, 2] = 7.0, -7.0
    torch.testing.assert_close(block(x, 1, TOKENS, temporal=True), expected)
    assert not torch.allclose(block(x, 1, TOKENS, temporal=False), expected)


def test_temporal_modules_on_a_picture() -> None:
    _on_one_rank(_a_picture)


def _one_module(built: Built) -> None:
    block, x = _block(built), _frames()
    (temporal,) = block.temporal
    assert isinstance(temporal, LocalTemporal)
    first = x + temporal(temporal.norm(x)[1], FRAMES) * block._patches(TOKENS, x)
    torch.testing.assert_close(block(x, FRAMES, TOKENS, temporal=True), block(first, FRAMES, TOKENS, temporal=False))


def test_one_temporal_module_runs_before_attention() -> None:
    _on_one_rank(_one_module, _model(temporal_modules=1))


def _calls(built: Built) -> None:
    block, called = _block(built), set[str]()
    owners = {name: module for name, module in block.named_modules() if list(module.parameters(recurse=False))}
    assert {"attention_norm", "mlp_norm", "temporal.0.norm", "temporal.1.norm"} <= owners.keys()
    for name, module in owners.items():
        module.register_forward_pre_hook(lambda module, given, name=name: called.add(name))
    block(_frames(), FRAMES, TOKENS, temporal=True)
    assert called == owners.keys()


def test_what_has_weights_is_called_as_a_module() -> None:
    """Megatron-Core waits in hooks on such calls until weights that are gathered during the forward pass are there."""
    _on_one_rank(_calls)


def _dropped_paths(built: Built) -> None:
    """Rates 0, 0.4995 and 0.999 over three blocks: the first is untouched, the last skipped."""
    x, keyed = _frames(), built.context.dropout
    for index, untouched in ((0, True), (2, False)):
        block = _block(built, index)
        expected = block(x, FRAMES, TOKENS, temporal=True)
        keyed.start(0, 0, f"vision.blocks.{index}")
        out = block(x, FRAMES, TOKENS, temporal=True)
        keyed.stop()
        assert torch.equal(out, expected if untouched else x)
    middle, kept = _block(built, 1), torch.zeros(CLIPS)
    for step in range(40):
        keyed.start(step, 0, "vision.blocks.1")
        branch = keyed.path(torch.ones(TOKENS, CLIPS * FRAMES, 1), 0.5, CLIPS)
        by_clip = branch.unflatten(1, (CLIPS, FRAMES)).permute(1, 0, 2, 3).flatten(1)
        assert all(clip.unique().tolist() in ([0.0], [2.0]) for clip in by_clip)
        kept += by_clip[:, 0] / 2
    keyed.stop()
    assert middle._drop_path == pytest.approx(0.4995)
    assert all(8 <= count <= 32 for count in kept.tolist())


def test_drop_path_takes_whole_branches_of_a_clip_and_grows_with_depth() -> None:
    _on_one_rank(_dropped_paths, _model(drop_path=0.999))


def _without_dropout(built: Built) -> None:
    x, keyed = _frames(), built.context.dropout
    expected = _block(built)(x, FRAMES, TOKENS, temporal=True)
    keyed.start(0, 0, "vision.blocks.0")
    out = _block(built)(x, FRAMES, TOKENS, temporal=True)
    keyed.stop()
    assert torch.equal(out, expected)


def test_the_vision_tower_has_no_dropout() -> None:
    _on_one_rank(_without_dropout)


def _order_of_tokens(built: Built) -> None:
    output = built.stage.block("vision.output")
    assert isinstance(output, VisionOutput)
    x = _frames()
    visual = output(x, FRAMES, TOKENS)
    assert visual.shape == (1 + FRAMES * (TOKENS - 1), CLIPS, VISION.width)
    torch.testing.assert_close(visual[0, 1], output.norm(x[0, FRAMES:].mean(0)))
    patch, frame = 4, 2
    torch.testing.assert_close(visual[1 + frame * (TOKENS - 1) + patch - 1, 1], output.norm(x[patch, FRAMES + frame]))


def test_visual_tokens_are_the_mean_class_token_then_frame_after_frame() -> None:
    _on_one_rank(_order_of_tokens)


def _tower(model: ModelConfig, layout: LayoutConfig) -> torch.Tensor:
    built = build(model, layout)
    randomise(built)
    media = torch.randn(CLIPS, 3, FRAMES, 12, 12, generator=torch.Generator().manual_seed(1))
    x = built.stage.block("vision.embedding")(media)
    for index in range(model.vision.blocks):
        x = built.stage.block(f"vision.blocks.{index}")(x, FRAMES, TOKENS, temporal=True)
    visual = built.stage.block("vision.output")(x, FRAMES, TOKENS)
    return built.context.sequence.gather(visual, 1 + FRAMES * (TOKENS - 1)).detach()


@pytest.mark.parametrize("name", ["TP2", "TP2+SP"])
def test_the_tower_with_a_projection_does_not_depend_on_the_split(name: str) -> None:
    """10 tokens a frame and 28 a clip divide by two ranks; the odd counts of the released tiny models need padding."""
    model = MODEL.model_copy(update={"text": MODEL.text.model_copy(update={"hidden": 24})})
    (expected,) = run_ranks(1, _tower, model, LAYOUTS["TP1"])
    assert expected.shape == (28, CLIPS, 24)
    for out in run_ranks(2, _tower, model, LAYOUTS[name]):
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
