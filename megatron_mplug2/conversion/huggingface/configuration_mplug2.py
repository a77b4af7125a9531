"""Sizes and decoding of an mPLUG-2 model for transformers."""

from typing import ClassVar

from transformers import PreTrainedConfig


class MPlug2Config(PreTrainedConfig):
    """The defaults are the released large model's. `vision_*`: the dual-vision encoder; `text_*`: what all BERT-shaped parts share."""

    model_type = "mplug2"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "text_hidden",
        "num_attention_heads": "text_heads",
        "num_hidden_layers": "text_layers",
        "vocab_size": "text_vocab_size",
        "image_size": "vision_resolution",
    }

    vision_width: int = 1024
    vision_blocks: int = 24
    vision_heads: int = 16
    vision_ffn: int = 4096
    vision_patch: int = 14
    """Side of a patch, in pixels."""
    vision_resolution: int = 224
    """Side of the picture that the position table was made for, in pixels; other sizes interpolate the table."""
    vision_temporal_modules: int = 2
    """Local temporal modules in a block, 1 or 2."""
    vision_temporal_on_images: bool = True
    """Run them on pictures too."""
    vision_layer_norm_eps: float = 1e-5

    text_hidden: int = 1024
    text_heads: int = 16
    text_ffn: int = 4096
    text_layers: int = 24
    """Text encoder layers, the universal ones among them."""
    text_universal_layers: int = 2
    text_queries: int = 50
    text_vocab_size: int = 30522
    text_positions: int = 512
    text_token_types: int = 2
    text_dropout: float = 0.1
    text_attention_dropout: float = 0.1
    text_layer_norm_eps: float = 1e-12

    fusion_layers: int = 6
    decoder_layers: int = 12
    init_std: float = 0.02
    contrastive_width: int = 256
    pretraining_heads: bool = False
    """Whether there are heads for MLM, contrast and matching; the released finetuned models have none."""

    cls_token_id: int = 101
    """Begins every text."""
    sep_token_id: int = 102
    """Ends what the decoder says."""
    pad_token_id: int = 0

    search: str = "released"
    """Which beam search `generate` takes: "released" or "standard", see `generation_mplug2`."""
    beams: int = 5
    caption_tokens: list[int] | None = None
    """Fewest and most tokens of a caption, [SEP] counted among the most; None: 4 and 20, the released ones."""
    answer_tokens: list[int] | None = None
    """The same of an answer; None: 1 and 10."""

    family: str | None = None
    """What it was finetuned for, such as "image_classification"; None: pretrained, or from a released file. The classes that it chooses
    among, if any, are `id2label`."""
