"""An exported folder as a model of this project: its config, and its weights into modules. Nothing in the folder is executed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_mplug2.config.downstream import ClassesConfig, DownstreamConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.conversion.huggingface.settings import CONFIG, PROCESSOR, Search, content_of, family_of, model_config
from megatron_mplug2.conversion.huggingface.tokenizer_files import vocabulary_file
from megatron_mplug2.conversion.huggingface.weight_files import read_weights
from megatron_mplug2.conversion.released import check_whole
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology

_SAMPLES = 2
"""Of a batch that is never made: a config has one."""


def is_exported(place: Path) -> bool:
    """Whether it is a folder for transformers: a run has no such file."""
    return (place / CONFIG).is_file()


def search_of(folder: Path) -> Search:
    """Raises UserError where its config is damaged."""
    content = content_of(folder)
    try:
        return Search(content["search"])
    except (ValueError, KeyError):
        raise UserError(f"{folder / CONFIG} does not tell its beam search: export the model again") from None


def exported_config(folder: Path, vocab: Path | None = None) -> RunConfig:
    """Of a run that would take pictures, clips and texts as the folder's processor does, finetuned for what the folder's was; it cannot be
    trained with. `vocab`: in the place of the folder's own.

    Raises UserError where the folder is damaged.
    """
    model = model_config(folder)
    family = family_of(folder)
    try:
        said = json.loads((folder / PROCESSOR).read_bytes())
        asked = {kind: said[f"{kind}_instruction"] for kind in ("image", "video")}
        lm = {f"{kind}_instruction": text for kind, text in asked.items() if text is not None}
        tree: dict[str, Any] = {
            "name": "exported",
            "run_dir": folder,
            "model": model.model_dump(),
            "data": {
                "vocab": vocab or vocabulary_file(folder),
                "train": {task: [str(folder)] for task in ("image_text", "video_text")},
                "text_length": said["text_length"],
                "document_length": said["text_length"],
                "target_length": said["target_length"],
                "test_transform": said["clip_resize"],
            },
            "schedule": [{"steps": 1, "image_text": 1, "video_text": 1, "frames": said["frames"], "resolution": said["resolution"]}],
            "training": {"global_batch": _SAMPLES, "microbatch": _SAMPLES},
            "objectives": {"vlm": {"group": _SAMPLES}, "lm": lm},
            "optimizer": {"warmup_steps": 0},
        }
        run = RunConfig.model_validate(tree)
    except OSError as error:
        raise UserError(f"{folder / PROCESSOR} cannot be read ({error.strerror}): a processor is saved beside its model") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / PROCESSOR} is damaged ({reason}): export the model again") from None
    if family is None:
        return run
    classes = ClassesConfig(file=folder / CONFIG) if family.classifies else None
    # Not in the tree: a run that is trained for a family has other objectives and streams.
    return run.model_copy(update={"downstream": DownstreamConfig(family=family, classes=classes)})


def load_exported(folder: Path, weights: Sequence[Weight], topology: Topology) -> None:
    """Fills `weights`; heads that a released model has not keep theirs. Raises UserError where the folder's are not its model's."""
    stored = read_weights(folder)
    check_whole(stored, model_config(folder))
    by_name = {weight.name: weight for weight in stored}
    for weight in weights:
        if weight.name in by_name:
            weight.load_full(by_name[weight.name].read(), topology)
