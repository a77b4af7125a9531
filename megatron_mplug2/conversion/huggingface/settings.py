"""What an exported folder says beside its weights: config.json and processor_config.json, from typed settings and back."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError

CONFIG, PROCESSOR = "config.json", "processor_config.json"
MODEL_TYPE = "mplug2"


class Search(StrEnum):
    """Which beam search captions and answers come from."""

    RELEASED = "released"
    """Token for token the released code's, with its quirks."""
    STANDARD = "standard"
    """`evaluation.generation.beam_search`."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    model: ModelConfig
    pretraining_heads: bool
    """Whether there are weights of the heads for MLM, contrast and matching."""
    search: Search
    caption_tokens: tuple[int, int]
    """Fewest and most tokens, [SEP] counted among the most."""
    answer_tokens: tuple[int, int]
    beams: int = 5  # [CODE]
    family: Family | None = None
    """What it was finetuned for; None: pretrained, or from a released file."""
    classes: tuple[str, ...] = ()
    """That it chooses among, in the order of the run's list; none of another family."""


@dataclass(frozen=True, kw_only=True)
class ProcessorSettings:
    resolution: int
    """Side of pictures and frames in pixels."""
    frames: int
    """Frames taken from a clip."""
    text_length: int
    """Most tokens of a caption, question or instruction."""
    target_length: int
    """Most tokens that the decoder is taught."""
    clip_resize: ResizeFilter
    image_instruction: str | None
    """What asks for a caption; None: nothing does."""
    video_instruction: str | None
    caption_prompt: str | None
    """What the decoder was taught to begin a caption with; cut off where it says it."""
    pictures: int = 1
    """That are looked at together."""


def config_json(settings: ModelSettings, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """What transformers reads. `drop_path` isn't in it: an exported model trains without."""
    model = settings.model
    sizes = {
        f"{part}_{key}": value
        for part, tree in (("vision", model.vision), ("text", model.text))
        for key, value in tree.model_dump(mode="json").items()
        if key != "drop_path"
    }
    labels = {str(place): name for place, name in enumerate(settings.classes)}
    return {
        "architectures": ["MPlug2Model"],
        "model_type": MODEL_TYPE,
        "auto_map": {"AutoConfig": "configuration_mplug2.MPlug2Config", "AutoModel": "modeling_mplug2.MPlug2Model"},
        "dtype": dtype,
        **sizes,
        "fusion_layers": model.fusion_layers,
        "decoder_layers": model.decoder_layers,
        "init_std": model.init_std,
        "contrastive_width": model.contrastive_width,
        "pretraining_heads": settings.pretraining_heads,
        "cls_token_id": tokenizer.cls,
        "sep_token_id": tokenizer.sep,
        "pad_token_id": 0,
        "search": settings.search.value,
        "beams": settings.beams,
        "caption_tokens": list(settings.caption_tokens),
        "answer_tokens": list(settings.answer_tokens),
        "family": settings.family,
        **({"id2label": labels, "label2id": {name: int(place) for place, name in labels.items()}} if labels else {}),
    }


def processor_json(settings: ProcessorSettings) -> dict[str, Any]:
    return {
        "processor_class": "MPlug2Processor",
        "auto_map": {"AutoProcessor": "processing_mplug2.MPlug2Processor"},
        "resolution": settings.resolution,
        "frames": settings.frames,
        "text_length": settings.text_length,
        "target_length": settings.target_length,
        "clip_resize": settings.clip_resize.value,
        "image_instruction": settings.image_instruction,
        "video_instruction": settings.video_instruction,
        "caption_prompt": settings.caption_prompt,
        "pictures": settings.pictures,
    }


def model_config(folder: Path) -> ModelConfig:
    """The model that a folder's config.json describes. Raises UserError where it is none of ours."""
    path, content = folder / CONFIG, content_of(folder)
    tree: dict[str, Any] = {key: content[key] for key in ModelConfig.model_fields if key in content}
    for part in ("vision", "text"):
        fields = ModelConfig.model_fields[part].annotation
        assert fields is not None
        tree[part] = {key: content[f"{part}_{key}"] for key in fields.model_fields if f"{part}_{key}" in content}
    try:
        return ModelConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'_'.join(map(str, first['loc']))}: {first['msg']}: export the model again") from None


def family_of(folder: Path) -> Family | None:
    """What the model was finetuned for, if anything. Raises UserError as `model_config`."""
    said = content_of(folder).get("family")
    try:
        return None if said is None else Family(said)
    except ValueError:
        raise UserError(f"{folder / CONFIG} is of family {said!r}, which is none: export the model again") from None


def content_of(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says. Raises UserError where it is none of ours."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a folder that `mplug2 convert` wrote") from None
    except ValueError:
        raise UserError(f"{path} is damaged: export the model again") from None
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        raise UserError(f"{path} has no model_type {MODEL_TYPE!r}: name a folder that `mplug2 convert` wrote")
    return content
