"""What is inside a released mPLUG-2 file: one flat set of tensors under one spelling of their names, and which of them are dead weight.

Names are those of the released caption and VQA classes with the `bert.` infix, which only some of the files have, left out.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from megatron_mplug2.errors import UserError

_WRAPPERS = ("model", "module")
"""Keys under which a training checkpoint holds the weights; the second is DeepSpeed's."""

_INFIX = re.compile(r"^((?:text_encoder|fusion_encoder|text_decoder)(?:_m)?)\.bert\.")

_DEAD = re.compile(
    r"|".join(
        (
            r"^[a-z_]+_m\.",  # momentum twins of whole modules
            r"^visual_encoder\.(transformer|token_embedding|ln_final)\.",  # CLIP's text tower
            r"^visual_encoder\.(positional_embedding|text_projection|logit_scale)$",
            r"^visual_encoder\.visual\.proj$",  # CLIP's projection, never applied
            r"\.embeddings\.position_ids$",  # a buffer: 0, 1, 2, ...
            r"\.layer\.\d+\.(intermediate_vision|output_vision)\.",  # FFN whose call is commented out
            r"^text_decoder\.encoder\.layer\.\d+\.latents$",
            r"^fusion_encoder\.embeddings\.",
            # What the pretraining model had beside, as far as the released loader tells.
            r"^(text_encoder|fusion_encoder)\.cls\.",
            r"^(vision_proj|text_proj|itm_head)\.",
            r"^(temp|image_queue|text_queue|idx_queue|queue_ptr)$",
        )
    )
)

_TIED = (
    ("text_decoder.cls.predictions.decoder.weight", "text_decoder.embeddings.word_embeddings.weight"),
    ("text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias"),
)
"""Pairs (copy, original) that are one parameter, and stand in the file twice."""


def released_tensors(state_dict: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The file's weights by name, unwrapped from 'model' or 'module', without `bert.` infixes and without the copies of tied pairs.

    Raises:
        UserError: there is something else than tensors, a name stands there twice, or a tied pair differs.
    """
    inside = next((state_dict[key] for key in _WRAPPERS if isinstance(state_dict.get(key), Mapping)), state_dict)
    assert isinstance(inside, Mapping)
    tensors: dict[str, torch.Tensor] = {}
    for key, value in inside.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{key} is a {type(value).__name__}, not a tensor: this isn't a released mPLUG-2 checkpoint")
        name = _INFIX.sub(r"\1.", key)
        if name in tensors:
            raise UserError(f"{key} stands in the file with and without 'bert.': use a file as released")
        tensors[name] = value
    for copy, original in _TIED:
        if copy not in tensors or original not in tensors:
            continue
        if not torch.equal(tensors.pop(copy), tensors[original]):
            raise UserError(f"{copy} and {original} differ, but mPLUG-2 ties them: the file is damaged or of another model")
    return tensors


def is_dead(name: str) -> bool:
    """Whether the released model never runs a weight, or only trains with it. Unused fusion layers are not told here."""
    return _DEAD.search(name) is not None


def numbered(tensors: Mapping[str, torch.Tensor], prefix: str) -> list[int]:
    """Numbers n of the names that begin with "prefix.n.", in order."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return sorted({int(match[1]) for match in map(pattern.match, tensors) if match})


def spelt(name: str) -> str:
    """A name as the released classes spell it: with `bert.` in the decoder."""
    return re.sub(r"^text_decoder\.(?=embeddings|encoder)", "text_decoder.bert.", name)


def with_tied_copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As released files are: each tied parameter under both of its names, the same memory."""
    return tensors | {copy: tensors[spelt(original)] for copy, original in _TIED}


def open_torch(path: Path) -> Mapping[str, object]:
    """What torch.save wrote, of which nothing is executed; tensors stay in the file until they are read, where its format allows.

    Raises:
        UserError: it cannot be read, is damaged, or holds something else than data.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): name a file of weights") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        why = f"holds {named[1]}, which is no data and isn't executed" if named else "is no file of torch.save, or damaged"
        raise UserError(f"{path} {why}: load it where it is trusted, and save its 'model' alone") from None
    except Exception:  # whatever a damaged archive leads to
        raise UserError(f"{path} is damaged or cut off: download it again, and compare its size") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not weights by name: name a file of weights")
    return content
