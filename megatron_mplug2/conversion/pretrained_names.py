"""CLIP's and BERT's tensors under the names that released mPLUG-2 gives them: it began from the same two models."""

import re
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.errors import UserError

Tensors = dict[str, torch.Tensor]

_VISUAL = "visual_encoder.visual"
_CLIP = (
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"pre_layrnorm\.(weight|bias)", r"ln_pre.\1"),
    (r"post_layernorm\.(weight|bias)", r"ln_post.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)", r"transformer.resblocks.\1.ln_\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
)
"""transformers' names, without `vision_model.`, and OpenAI's without `visual.`."""


def clip_as_released(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> Tensors:
    """The vision tower; the patch kernel gets a time axis of 1, the position table the model's grid (class row kept, the rest bilinear).

    Raises:
        UserError: there is no CLIP vision tower.
    """
    visual = {name.removeprefix("visual."): tensor for name, tensor in tensors.items() if name.startswith("visual.")} or _from_transformers(
        tensors
    )
    if "conv1.weight" not in visual or "positional_embedding" not in visual:
        raise UserError("it holds no vision tower of CLIP: neither visual.conv1.weight nor embeddings.patch_embedding.weight is there")
    found = {f"{_VISUAL}.{name}": tensor for name, tensor in visual.items()}
    found[f"{_VISUAL}.conv1.weight"] = visual["conv1.weight"].unsqueeze(2)
    found[f"{_VISUAL}.positional_embedding"] = resized(visual["positional_embedding"].float(), config.vision.grid)
    return found


def bert_as_released(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> Tensors:
    """All of it as the text encoder, its last layers as fusion's, its first ones as the decoder's, its MLM head as the decoder's.

    Raises:
        UserError: there is no BERT, or one with fewer layers than the model's encoder or decoder.
    """
    bert = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    # Old files have TensorFlow's names for a norm's weights.
    bert = {
        re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)): bert[name] for name in bert
    }
    layers = {int(match[1]) for match in map(re.compile(r"encoder\.layer\.(\d+)\.").match, bert) if match}
    if not layers or "embeddings.word_embeddings.weight" not in bert:
        raise UserError("it holds no BERT: no embeddings.word_embeddings.weight, or no layers")
    needed = max(config.text.layers, config.decoder_layers)
    if len(layers) < needed:
        raise UserError(f"it has {len(layers)} layers, the model {needed}: take a larger BERT, or fewer layers")
    found = {}
    for name, tensor in bert.items():
        if name.startswith(("embeddings.", "encoder.")):
            found[f"text_encoder.{name}"] = tensor
            found[f"fusion_encoder.{name}"] = tensor
            found[f"text_decoder.{name}"] = tensor
        elif name.startswith("cls.predictions."):
            found[f"text_decoder.{name}"] = tensor
    return found


def resized(table: torch.Tensor, grid: int) -> torch.Tensor:
    """[1 + n * n, width] -> [1 + grid * grid, width]."""
    side = int((len(table) - 1) ** 0.5)
    if side == grid:
        return table
    square = table[1:].T.reshape(1, -1, side, side)
    return torch.cat([table[:1], F.interpolate(square, size=(grid, grid), mode="bilinear").flatten(2)[0].T])


def _from_transformers(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    bare = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items() if not name.startswith("text_model.")}
    found = {}
    for name, tensor in bare.items():
        for pattern, replacement in _CLIP:
            if match := re.fullmatch(pattern, name):
                found[match.expand(replacement)] = tensor
    blocks = {match[1] for match in map(re.compile(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.weight").match, bare) if match}
    for block in blocks:
        for kind in ("weight", "bias"):
            parts = [bare.get(f"encoder.layers.{block}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                found[f"transformer.resblocks.{block}.attn.in_proj_{kind}"] = torch.cat(whole)
    return found
