"""MLM's choice of positions and replacements, keyed by the sample (ALBEF's convention: every token decides for itself)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.objectives import MLMConfig
from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Masked:
    """A document for MLM, both of its length."""

    tokens: NDArray[np.int64]
    """With the replacements."""
    labels: NDArray[np.int64]
    """The original token where it was chosen, else IGNORED."""


def mask_tokens(tokens: NDArray[np.int64], config: MLMConfig, tokenizer: Tokenizer, draws: SampleDraws) -> Masked:
    """Chooses each token with `config.probability`, never a special one or padding; a chosen one becomes [MASK], a random ordinary
    piece, or stays. A short document may end with none chosen."""
    choice, replacement, piece = draws.uniforms(3 * len(tokens), Purpose.MASK).reshape(-1, 3).T
    chosen = (choice < config.probability) & ~np.isin(tokens, tokenizer.specials)
    random = tokenizer.ordinary[(piece * len(tokenizer.ordinary)).astype(np.int64)]
    replaced = np.where(
        replacement < config.mask_share,
        tokenizer.mask,
        np.where(replacement < config.mask_share + config.random_share, random, tokens),
    )
    return Masked(tokens=np.where(chosen, replaced, tokens), labels=np.where(chosen, tokens, IGNORED))
