import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.models.shapes import BatchShape, Stream
from tests.evaluation.tiny import CLS, CONFIG, VOCAB, layouts, make_inference, some_media, some_texts, task_of
from tests.ranks import run_ranks


def outputs(layout: LayoutConfig, frames: int) -> dict[str, torch.Tensor]:
    """Everything that inference gives for 4 clips and 5 questions."""
    inference = make_inference(layout)
    media = inference.encode_media(some_media(4, frames), task_of(frames))
    texts, rows = some_texts(5), torch.tensor([0, 3, 1, 1, 2])
    text = inference.encode_text(texts)
    fused = inference.fuse(text, media, rows)
    memory = inference.memory(fused, media, rows)
    ids = torch.cat([torch.full((10, 1), CLS), torch.arange(30).view(10, 3) + 5], dim=1)
    return {
        "vision": inference.vision_features(media),
        "text": inference.text_features(text),
        "match": inference.match_probability(fused),
        "logits": inference.next_logits(ids, memory),
    }


@pytest.fixture(scope="module", params=[1, 3], ids=["pictures", "clips"])
def frames(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def reference(frames: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = run_ranks(1, outputs, LayoutConfig(), frames)[0]
    return found


@pytest.mark.parametrize("layout", layouts(), ids=["tp2", "tp2+sp"])
def test_tensor_parallel_ranks_give_what_one_process_gives(layout: LayoutConfig, frames: int, reference: dict[str, torch.Tensor]) -> None:
    first, second = run_ranks(2, outputs, layout, frames)
    for name, expected in reference.items():
        assert torch.equal(first[name], second[name]), f"ranks differ in {name}"
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
    assert first["logits"].shape == (10, VOCAB)


def as_training_does() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same quantities by `Inference` and by the training forward pass of `Stage`."""
    inference = make_inference(LayoutConfig())
    stage = inference._stage
    media, captions, instructions = some_media(2), some_texts(2, seed=1), some_texts(4, seed=2)
    targets = some_texts(4, length=6, seed=3)
    negatives = torch.tensor([1, 0])
    zero = torch.zeros(())
    batch = PairBatch(
        task=Task.VIDEO_TEXT, media=media, captions=captions, instructions=instructions, targets=targets,
        media_ids=torch.arange(2), meaning_ids=torch.arange(2), sample_ids=torch.arange(2),
    )  # fmt: skip
    shape = BatchShape(
        task=Task.VIDEO_TEXT, samples=2, frames=3, texts=1, pairs=3, instructions=2, text_length=9, target_length=6, patches=4
    )
    micro = Microbatch(
        batch=batch, step=0, index=0, objectives=ObjectivesConfig(), divisors={}, sequence=inference.context.sequence, shape=shape,
        contrast=ContrastShare(image_for_text=negatives, text_for_image=negatives, loss=zero),
    )  # fmt: skip
    trained = _training_outputs(stage, micro, inference)
    encoded = inference.encode_media(media, Task.VIDEO_TEXT)
    text, asked = inference.encode_text(captions), inference.encode_text(instructions)
    pairs = inference.fuse(text, encoded, torch.tensor([0, 1]))
    rows = torch.tensor([0, 0, 1, 1])
    memory = inference.memory(inference.fuse(asked, encoded, rows), encoded, rows)
    mine = {
        "vision": inference.vision_features(encoded),
        "text": inference.text_features(text),
        "match": inference.match_probability(pairs),
        "logits": inference.next_logits(targets[:, :3], memory),
    }
    return mine, trained


def _training_outputs(stage: Stage, micro: Microbatch, inference: Inference) -> dict[str, torch.Tensor]:
    """Runs the units one by one, without the losses, as the stage does."""
    stage.eval()
    streams: dict[Stream, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    for unit in stage.units:
        module = stage.block(unit.name)
        if unit.name == "heads.contrast":
            first = inference.context.sequence.first_token
            found["vision"] = module.vision_features(first(streams[Stream.VISUAL]))  # type: ignore[operator]
            found["text"] = module.text_features(first(streams[Stream.TEXT][:, :2]))  # type: ignore[operator]
        elif unit.name == "heads.matching":
            found["match"] = module(streams[Stream.FUSED][0, :2]).softmax(-1)[:, 1]
            streams[Stream.PROMPT] = streams[Stream.FUSED][:, 6:]
        elif unit.name == "heads.lm":
            found["logits"] = module(streams[Stream.DECODER], 6)[2, :, :VOCAB]
        elif not unit.flow(micro.task).idle:
            streams.update(unit.run(module, streams, micro))
    return {name: tensor.detach() for name, tensor in found.items()}


def test_inference_equals_the_forward_pass_of_training() -> None:
    mine, trained = run_ranks(1, as_training_does)[0]
    assert mine.keys() == trained.keys()
    for name, expected in trained.items():
        torch.testing.assert_close(mine[name], expected, rtol=1e-4, atol=1e-5)


def reversed_differs() -> tuple[float, float]:
    inference = make_inference(LayoutConfig())
    clip, picture = some_media(2, 3), some_media(2, 1)
    there, back = (inference.vision_features(inference.encode_media(x, Task.VIDEO_TEXT)) for x in (clip, clip.flip(2)))
    as_picture, as_clip = (inference.vision_features(inference.encode_media(picture, task)) for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT))
    return float((there - back).abs().max()), float((as_picture - as_clip).abs().max())


def test_the_order_of_frames_counts_and_pictures_skip_temporal_modules() -> None:
    by_order, by_task = run_ranks(1, reversed_differs)[0]
    assert by_order > 1e-3
    assert by_task > 1e-3


def test_config_has_padding_in_every_place() -> None:
    """Else sequence parallelism is tested without the paddings that it makes: odd lengths of frames, clips, texts and queries."""
    patches = CONFIG.vision.grid**2
    assert all(length % 2 for length in (1 + patches, 1 + 3 * patches, 9, CONFIG.text.queries))
