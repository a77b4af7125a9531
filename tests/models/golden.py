"""The tiny released models: their weights in our modules, run unit by unit as training does, and every value that the file also has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import torch
from torch import nn

from megatron_mplug2.config.schema import Averaging, LayoutConfig, LMConfig, ModelConfig, ObjectivesConfig, Task
from megatron_mplug2.conversion.released import from_released
from megatron_mplug2.conversion.released_sizes import config_from_released
from megatron_mplug2.data.batch import IGNORED, PAD, PairBatch
from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.chain import Streams
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.shapes import BatchShape, Stream
from megatron_mplug2.models.units import DecoderEmbeddingUnit, DecoderLayerUnit
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


@dataclass
class Run:
    """`values` under the golden file's names, unsharded, batch first; `loss` still in the graph."""

    values: dict[str, torch.Tensor]
    loss: torch.Tensor


def run(kind: Released, built: Built) -> Run:
    """The released model's training forward."""
    micro = _microbatch(kind, built)
    length = micro.shape.visual_length
    values: dict[str, torch.Tensor] = {}
    streams: Streams = {}
    last = built.stage.block(f"universal.layers.{built.context.config.text.universal_layers - 1}")
    assert isinstance(last, UniversalLayer)
    lm = built.stage.block("heads.lm")
    # The vision use of the universal layers is the later one.
    with _output_of(last.layer, values, "uni"), _output_of(lm, values, "dec_logits"):
        for unit in built.stage.units:
            if isinstance(unit, DecoderEmbeddingUnit) and kind is Released.CAPTION:
                break
            if not unit.flow(micro.task).idle:
                written = unit.run(built.stage.block(unit.name), {name: streams[name] for name in unit.flow(micro.task).reads}, micro)
                streams.update(written)
            if unit.name == "vision.output":
                values["vis"] = streams[Stream.VISUAL]
        values["img_emb"] = streams[Stream.VISUAL]
        loss = _caption_loss(streams, micro, built) if kind is Released.CAPTION else micro.losses[-1]
    if kind is Released.VQA:
        rows = micro.samples
        values |= {"text": streams[Stream.TEXT][:, rows:], "fusion_img": streams[Stream.VISUAL], "fusion_txt": streams[Stream.PROMPT]}
    sequence, logits = built.context.sequence, values.pop("dec_logits")
    lengths = {"text": micro.shape.text_length, "fusion_txt": micro.shape.text_length}
    whole = {name: sequence.gather(value, lengths.get(name, length)).transpose(0, 1) for name, value in values.items()}
    vocabulary = gather_rows(logits.detach().permute(2, 1, 0), built.topology.tensor_group)[: built.context.config.text.vocab_size]
    return Run(values=whole | {"dec_logits": vocabulary.permute(1, 2, 0), "loss": loss}, loss=loss)


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
        counts=dict.fromkeys(Objective, float(len(rows))),
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
