"""The sizes of a released mPLUG-2, read off its weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, Field, ValidationError

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.conversion.released_file import numbered, released_tensors
from megatron_mplug2.errors import UserError

HEAD_WIDTH = 64
"""Channels of an attention head in every released size."""

SIZES = "mplug2_model"
"""Key beside the weights under which `convert to-official` leaves the model's sizes; the released loader passes it over."""

_LAYERS = "text_encoder.encoder.layer"
_BLOCKS = "visual_encoder.visual.transformer.resblocks"


class BertSizes(BaseModel):
    """What a released BERT config (config_bert_large_text.json) says that no weight tells."""

    num_attention_heads: int = Field(gt=0)
    fusion_layers: int = Field(gt=0)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError where it is no such file."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): name a released BERT config, a JSON file") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(f"{path} is no released BERT config: {place}: {first['msg']}") from None


def config_from_released(state_dict: Mapping[str, object], bert: BertSizes | None = None) -> ModelConfig:
    """The model that a released file is of, with what the released code does: two temporal modules, on pictures too.

    Without `bert`, the sizes are those that `convert to-official` left beside the weights; in a released file, which has none, heads are 64
    wide, and a quarter of the fusion layers run, rounded up, as of the text encoder's layers (6 of 24 in large, 3 of 12 in base): the two
    sizes that no weight tells.

    Raises:
        UserError: it isn't a released mPLUG-2 checkpoint.
    """
    if bert is None and SIZES in state_dict:
        return _model(state_dict[SIZES])
    tensors = released_tensors(state_dict)
    layers = len(numbered(tensors, _LAYERS))
    sizes = {"vision": _vision_sizes(tensors), "text": _text_sizes(tensors, layers, bert)}
    fusion_layers = bert.fusion_layers if bert is not None else math.ceil(layers / 4)
    return _model({**sizes, "fusion_layers": fusion_layers, "decoder_layers": len(numbered(tensors, "text_decoder.encoder.layer"))})


def _model(sizes: object) -> ModelConfig:
    try:
        return ModelConfig.model_validate(sizes)
    except ValidationError as error:
        where, message = error.errors()[0]["loc"], error.errors()[0]["msg"]
        at = ".".join(map(str, ("model", *where)))
        raise UserError(f"the file's sizes make no mPLUG-2 model ({at}: {message}): it isn't a released checkpoint") from error


def _vision_sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, object]:
    width, _, _, patch, _ = _shape(tensors, "visual_encoder.visual.conv1.weight", 5)
    positions, _ = _shape(tensors, "visual_encoder.visual.positional_embedding", 2)
    ffn, _ = _shape(tensors, f"{_BLOCKS}.0.mlp.c_fc.weight", 2)
    return {
        "width": width,
        "blocks": len(numbered(tensors, _BLOCKS)),
        "heads": _heads(width),
        "ffn": ffn,
        "patch": patch,
        "resolution": math.isqrt(positions - 1) * patch,
        "temporal_modules": 2 if f"{_BLOCKS}.0.lmhra2.ln.weight" in tensors else 1,
        "temporal_on_images": True,
    }


def _text_sizes(tensors: Mapping[str, torch.Tensor], layers: int, bert: BertSizes | None) -> dict[str, object]:
    vocab_size, hidden = _shape(tensors, "text_encoder.embeddings.word_embeddings.weight", 2)
    positions, _ = _shape(tensors, "text_encoder.embeddings.position_embeddings.weight", 2)
    token_types, _ = _shape(tensors, "text_encoder.embeddings.token_type_embeddings.weight", 2)
    ffn, _ = _shape(tensors, f"{_LAYERS}.0.intermediate.dense.weight", 2)
    universal = sum(f"{_LAYERS}.{index}.crossattention.self.query.weight" in tensors for index in range(layers))
    queries, _ = _shape(tensors, f"{_LAYERS}.{layers - universal}.latents", 2)
    return {
        "hidden": hidden,
        "heads": bert.num_attention_heads if bert is not None else _heads(hidden),
        "ffn": ffn,
        "layers": layers,
        "universal_layers": universal,
        "queries": queries,
        "vocab_size": vocab_size,
        "positions": positions,
        "token_types": token_types,
    }


def _heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise UserError(f"a width of {width} isn't a multiple of {HEAD_WIDTH}, an attention head's: it isn't a released mPLUG-2 checkpoint")
    return width // HEAD_WIDTH


def _shape(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].dim() != dimensions:
        raise UserError(f"no {name} of {dimensions} dimensions in the file: it isn't a released mPLUG-2 checkpoint")
    return tuple(tensors[name].shape)
