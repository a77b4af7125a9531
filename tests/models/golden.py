"""The tiny released models: their weights in our modules, run unit by unit as training does, and every value that the file also has."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import torch
from torch import nn

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.objectives import Averaging, LMConfig, ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.conversion.released import Report, plan_released
from megatron_mplug2.conversion.released_sizes import config_from_released
from megatron_mplug2.data.batch import IGNORED, PAD, PairBatch
from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.chain import Streams
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.shapes import BatchShape, Stream
from megatron_mplug2.models.units import DecoderEmbeddingUnit, DecoderLayerUnit, VisionOutputUnit
from megatron_mplug2.models.universal import UniversalLayer
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.objectives.token_loss import token_losses
from megatron_mplug2.parallel.gather import gather_rows
from tests.models.build import Built, build
from tests.shared import SHARED

FRAMES, PATCHES = 4, 4


class Released(StrEnum):
    CAPTION = "caption"
    VQA = "vqa"


@cache
def load(kind: Released) -> dict[str, Any]:
    """state_dict, video, answer_ids, question_ids, out, prompt_length, ..."""
    assert SHARED is not None
    return torch.load(SHARED / "golden" / f"tiny_{kind}.pt", weights_only=True)


def model_config(kind: Released) -> ModelConfig:
    return config_from_released(load(kind)["state_dict"])


def from_released(state_dict: Mapping[str, object], config: ModelConfig) -> tuple[dict[str, torch.Tensor], Report]:
    """Every weight that a released file holds, full and unsharded under its canonical name, in the file's data type.

    Raises UserError as `plan_released`.
    """
    plan = plan_released(state_dict, config)
    return {weight.name: weight.read() for weight in plan.weights()}, plan.report


def build_released(kind: Released, layout: LayoutConfig, dtype: torch.dtype = torch.float32) -> Built:
    """The released model on this rank; what the file has no weights for is 0."""
    config = model_config(kind)
    full, report = from_released(load(kind)["state_dict"], config)
    built = build(config, layout)
    built.stage.to(dtype)
    for weight in built.weights:
        assert (weight.name in full) != (weight.name in report.missing)
        weight.load_full(full.get(weight.name, torch.zeros(weight.full_size)), built.topology)
    return built


@dataclass(frozen=True, kw_only=True)
class Run:
    values: dict[str, torch.Tensor]
    """Under the golden file's names, unsharded, batch first."""
    loss: torch.Tensor
    """The same as in `values`, on this rank's graph."""


def run(kind: Released, built: Built) -> Run:
    """The released model's training forward."""
    micro = _microbatch(kind, built)
    last = built.stage.block(f"universal.layers.{built.context.config.text.universal_layers - 1}")
    assert isinstance(last, UniversalLayer)
    seen: dict[str, torch.Tensor] = {}
    # Of both uses of the universal layers the later one is vision's.
    with _output_of(last.layer, seen, "uni"), _output_of(built.stage.block("heads.lm"), seen, "dec_logits"):
        streams = _run_units(built, micro, DecoderEmbeddingUnit.name if kind is Released.CAPTION else None, seen)
        loss = _caption_loss(streams, micro, built) if kind is Released.CAPTION else micro.losses[-1]
    values = {"dec_logits": _whole_vocabulary(seen["dec_logits"].detach(), built), "loss": loss}
    visual = {"vis": seen["vis"], "uni": seen["uni"], "img_emb": seen["img_emb"]}
    if kind is Released.VQA:
        visual["fusion_img"] = streams[Stream.VISUAL]
        text = {"text": streams[Stream.TEXT][:, micro.samples :], "fusion_txt": streams[Stream.PROMPT]}
        values |= _whole(text, micro.shape.text_length, built)
    return Run(values=values | _whole(visual, micro.shape.visual_length, built), loss=loss)


def _run_units(built: Built, micro: Microbatch, stop: str | None, seen: dict[str, torch.Tensor]) -> Streams:
    """All units before the one named `stop`."""
    streams: Streams = {}
    for unit in built.stage.units:
        if unit.name == stop:
            break
        flow = unit.flow(micro.task)
        if not flow.idle:
            streams |= unit.run(built.stage.block(unit.name), {name: streams[name] for name in flow.reads}, micro)
        if unit.name == VisionOutputUnit.name:
            seen["vis"] = streams[Stream.VISUAL]
    seen["img_emb"] = streams[Stream.VISUAL]
    return streams


def _whole(shards: dict[str, torch.Tensor], length: int, built: Built) -> dict[str, torch.Tensor]:
    """[length (local), b, h] -> [b, length, h]."""
    return {name: built.context.sequence.gather(shard, length).transpose(0, 1) for name, shard in shards.items()}


def _whole_vocabulary(logits: torch.Tensor, built: Built) -> torch.Tensor:
    """[L, b, padded vocabulary / tensor size] -> [b, L, vocabulary]."""
    rows = gather_rows(logits.permute(2, 1, 0), built.topology.tensor_group)
    return rows[: built.context.config.text.vocab_size].permute(1, 2, 0)


def _microbatch(kind: Released, built: Built) -> Microbatch:
    """Questions as captions too: their other uses don't reach the released outputs."""
    golden = load(kind)
    rows = torch.arange(golden["video"].shape[0])
    batch = PairBatch(
        task=Task.VIDEO_TEXT,
        media=golden["video"].to(next(built.stage.parameters()).dtype),
        captions=golden["question_ids"],
        instructions=golden["question_ids"],
        targets=golden["answer_ids"],
        media_ids=rows,
        meaning_ids=rows,
        sample_ids=rows,
    )
    shape = BatchShape(
        task=Task.VIDEO_TEXT,
        samples=len(rows),
        frames=FRAMES,
        texts=1,
        pairs=3,
        instructions=1,
        text_length=golden["question_ids"].shape[1],
        target_length=golden["answer_ids"].shape[1],
        patches=PATCHES,
    )
    return Microbatch(
        batch=batch,
        step=0,
        index=0,
        objectives=ObjectivesConfig(lm=LMConfig(averaging=Averaging.TOKEN)),
        # Released VQA sums over a sample's tokens and divides by the batch.
        divisors=dict.fromkeys(Objective, torch.tensor(float(len(rows)))),
        sequence=built.context.sequence,
        shape=shape,
        features_only=True,
        contrast=ContrastShare(image_for_text=rows.flip(0), text_for_image=rows.flip(0)),
    )


def _caption_loss(streams: Streams, micro: Microbatch, built: Built) -> torch.Tensor:
    """The decoder on the image embeddings alone; mean over the tokens after the prompt."""
    x = built.stage.block("decoder.embedding")(micro.targets)
    memory_mask = AttentionMask(length=micro.shape.visual_length)
    for unit in built.stage.units:
        if isinstance(unit, DecoderLayerUnit):
            x = built.stage.block(unit.name)(x, micro.target_mask, streams[Stream.VISUAL], memory_mask)
    logits = built.stage.block("heads.lm")(x, micro.shape.target_length)
    labels = micro.targets.masked_fill(micro.targets == PAD, IGNORED)
    labels[:, : load(Released.CAPTION)["prompt_length"]] = IGNORED
    losses = token_losses(logits[:-1], labels[:, 1:], built.context.config.text.vocab_size, built.topology.tensor_group)
    return losses.sum() / (labels[:, 1:] != IGNORED).sum()


@contextmanager
def _output_of(module: nn.Module, values: dict[str, torch.Tensor], name: str) -> Iterator[None]:
    """Keeps the output of the module's latest call."""

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        values[name] = output

    handle = module.register_forward_hook(keep)
    yield
    handle.remove()
