"""A released .pth to a folder that transformers loads, and back."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from data_tools.fresh_file import check_free
from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.config.load import load_model
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.conversion.huggingface.card import model_card
from megatron_mplug2.conversion.huggingface.folder import write_folder
from megatron_mplug2.conversion.huggingface.settings import ModelSettings, ProcessorSettings, Search, model_config
from megatron_mplug2.conversion.huggingface.weight_files import DTYPES, read_weights
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.conversion.released import Report, plan_released, to_released
from megatron_mplug2.conversion.released_file import open_torch
from megatron_mplug2.conversion.released_sizes import SIZES, BertSizes, config_from_released
from megatron_mplug2.errors import UserError

FRAMES, QUESTION_TOKENS, TARGET_TOKENS = 16, 50, 20  # [CODE] of the released finetuning
PROMPT = "a video of"  # [CODE]
CAPTION_TOKENS, ANSWER_TOKENS = (4, 20), (1, 10)  # [CODE]


def official_to_folder(path: Path, out: Path, vocab: Path, *, model: Path | None, bert_config: Path | None) -> Report:
    """Writes `out` with the released decoding.

    `vocab`: the tokenizer's file, which no .pth holds: bert-base-uncased's vocab.txt. `model`: a config file whose model it is;
    `bert_config`: the released BERT config. Without either the sizes are read off the weights.

    Raises:
        UserError: a file isn't what it should be, or `out` is taken.
    """
    check_free(out)
    state_dict = open_torch(path)
    try:
        config = _config(state_dict, model, bert_config)
        plan = plan_released(state_dict, config)
        weights = plan.weights()
        _check_types(weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    settings = ModelSettings(
        model=config, pretraining_heads=False, search=Search.RELEASED, caption_tokens=CAPTION_TOKENS, answer_tokens=ANSWER_TOKENS
    )
    processor = ProcessorSettings(
        resolution=config.vision.resolution,
        frames=FRAMES,
        text_length=QUESTION_TOKENS,
        target_length=TARGET_TOKENS,
        clip_resize=ResizeFilter.NEAREST,  # [CODE] of its tests; what its published figures were measured with
        image_instruction=None,
        video_instruction=None,
        caption_prompt=PROMPT,
    )
    parameters = sum(weight.size.numel() for weight in weights)
    card = model_card(f"mPLUG-2, {path.stem}", settings, processor, parameters, {"converted from": path.name}, "")
    write_folder(out, weights, settings, processor, vocab=vocab, card=card)
    return plan.report


def folder_to_official(folder: Path, out: Path) -> Report:
    """Writes a .pth of the released layout, the weights under 'model', dead ones left out, and beside them its sizes.

    Raises:
        UserError: it is no such folder, or `out` is taken or cannot be written.
    """
    check_free(out)
    model = model_config(folder)
    tensors, report = to_released(read_weights(folder), model)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": tensors, SIZES: model.model_dump(mode="json")}, partial)
        partial.rename(out)
    except (OSError, RuntimeError) as error:  # torch.save hides a full disk in a RuntimeError
        raise UserError(f"cannot write {out}: {_reason(error)}") from None
    finally:
        with suppress(OSError):  # also where its folder is none
            partial.unlink(missing_ok=True)
    return report


def _check_types(weights: Sequence[LazyWeight]) -> None:
    for weight in weights:
        if weight.dtype not in DTYPES.values():
            known = ", ".join(map(str, DTYPES.values()))
            raise UserError(f"{weight.name} is {weight.dtype}, but weights are {known}: take a file that is not quantised")


def _reason(error: OSError | RuntimeError) -> str:
    """Of torch.save's own text the system's word, where it has one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    _, named, system = str(error).splitlines()[0].rpartition("strerror: ")
    return system if named else "it was not written whole; is the disk full?"


def _config(state_dict: Mapping[str, object], model: Path | None, bert_config: Path | None) -> ModelConfig:
    if model is not None:
        config = load_model(model)
        always = config.vision.model_copy(update={"temporal_on_images": True})  # [CODE] so these weights were trained
        return config.model_copy(update={"vision": always})
    return config_from_released(state_dict, BertSizes.read(bert_config) if bert_config is not None else None)
