"""Sequences of tokens from a decoder's memory, by any mode."""

from collections.abc import Sequence

import torch

from megatron_mplug2.evaluation.generation.beam_search import beam_search
from megatron_mplug2.evaluation.generation.hypotheses import Hypotheses
from megatron_mplug2.evaluation.generation.released_search import released_search
from megatron_mplug2.evaluation.generation.sampling import draw
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding, Mode
from megatron_mplug2.evaluation.inference import Inference, Memory


def generate(inference: Inference, memory: Memory, keys: Sequence[int], decoding: Decoding, bounds: Bounds) -> Hypotheses:
    """A sequence for each row of `memory`; `keys` (see `draw_key`) count where it is drawn. All tensor-parallel ranks find the same."""
    cache = inference.start_decoding(memory)

    def next_logits(ids: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return inference.next_token_logits(ids[:, -1], parents, cache)

    match decoding.mode:
        case Mode.SAMPLE:
            return draw(next_logits, keys, decoding, bounds, inference.device)
        case Mode.RELEASED:
            return released_search(next_logits, memory.answers, decoding.width, bounds, inference.device)
        case Mode.STANDARD | Mode.GREEDY:
            return beam_search(next_logits, memory.answers, decoding.width, bounds, inference.device)
