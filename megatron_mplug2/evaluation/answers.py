"""What the model says about pictures and clips when it is given instructions."""

from collections.abc import Sequence

import torch

from megatron_mplug2.evaluation.beam_search import BeamSettings, beam_search, generated
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference


def answer_ids(
    inference: Inference, media: EncodedMedia, instructions: torch.Tensor, rows: torch.Tensor, settings: BeamSettings
) -> list[list[int]]:
    """Token ids, without special ones, of the answer to each instruction.

    `instructions` [n, L] int64 token ids; `rows` [n] int64, the picture or clip that each one is about.
    """
    rows = rows.to(inference.device)
    unique, inverse = instructions.unique(dim=0, return_inverse=True)  # most instructions are asked of many clips
    text = inference.encode_text(unique).rows(inverse.to(inference.device))
    memory = inference.memory(inference.fuse(text, media, rows), media, rows)
    hypotheses = beam_search(lambda ids: inference.next_logits(ids, memory), len(rows), settings, inference.device)
    return generated(hypotheses, settings)


def words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation goes."""
    return "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower()).split()


def same(said: str, truth: str) -> bool:
    """Exact match after strip. The tokenizer that the answer went through lower-cases, so case does not count."""
    return said.strip() == truth.strip().lower()


def share(right: Sequence[bool]) -> float | None:
    """Percentage; None of nothing."""
    return 100 * sum(right) / len(right) if right else None
