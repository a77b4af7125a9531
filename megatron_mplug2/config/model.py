"""Sizes and kinds of the model's parts."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, ValidationInfo, model_validator

from megatron_mplug2.config import checks
from megatron_mplug2.config.node import Frozen


class Block(StrEnum):
    """Kinds of blocks in the model's chain. Heads are none: they are small, and record losses."""

    VISION = "vision"
    TEXT = "text"
    UNIVERSAL = "universal"
    FUSION = "fusion"
    DECODER = "decoder"


class Module(StrEnum):
    """Parts of the model, by the canonical names of weights. A tied word embedding is its embedding's, not its head's."""

    VISION = "vision"
    """The vision encoder without its local temporal modules."""
    TEMPORAL = "temporal"
    """The local temporal modules inside the vision encoder."""
    TEXT = "text"
    UNIVERSAL = "universal"
    FUSION = "fusion"
    DECODER = "decoder"
    HEADS = "heads"


class VisionConfig(Frozen):
    """Dual-vision encoder: a CLIP ViT with local temporal modules."""

    width: int = Field(gt=0)
    blocks: int = Field(gt=0)
    heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    patch: int = Field(gt=0)
    """Side of a patch, in pixels."""
    resolution: int = Field(gt=0)
    """Side of the picture that the position table was made for, in pixels; other sizes interpolate the table."""
    temporal_modules: Literal[1, 2] = 2
    """Local temporal modules in a block: 2 in the released code (before attention and before the FFN), 1 in the paper's figure 2b."""
    temporal_on_images: bool = False
    """Run the temporal modules on pictures (T=1) too, as the released code does; the paper runs them on video only."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Drop-path rate of the last block; grows linearly from 0 at the first [CODE]."""
    layer_norm_eps: float = 1e-5  # [CODE]

    @property
    def grid(self) -> int:
        """Patches along one side of the position table."""
        return self.resolution // self.patch


class TextConfig(Frozen):
    """What the BERT-shaped parts share: text encoder, universal layers, fusion and decoder."""

    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    layers: int = Field(gt=0)
    """Text encoder layers, the universal ones among them."""
    universal_layers: int = Field(default=2, ge=2)  # [CODE] num_uni_layer
    """The last ones of `layers`: their self-attention and FFN serve text and vision."""
    queries: int = Field(default=50, gt=0)  # [CODE] latents
    vocab_size: int = Field(default=30522, gt=0)
    positions: int = Field(default=512, gt=0)
    token_types: int = Field(default=2, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # [CODE] hidden_dropout_prob
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)  # [CODE] attention_probs_dropout_prob
    layer_norm_eps: float = 1e-12  # [CODE]


class ModelConfig(Frozen):
    """Sizes of every module."""

    vision: VisionConfig
    text: TextConfig
    fusion_layers: int = Field(gt=0)
    decoder_layers: int = Field(gt=0)
    contrastive_width: int = Field(default=256, gt=0)  # [M1] embed_dim
    init_std: float = Field(default=0.02, gt=0)  # [CODE] initializer_range

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "ModelConfig":
        checks.report(checks.model_errors(self), info.context)
        return self
