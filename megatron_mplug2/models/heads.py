"""Heads: vocabulary-parallel language-model head (MLM and decoder), contrastive projections with the temperature, matching."""

import torch
from torch import nn
from torch.nn import functional as F

from megatron_mplug2.config.checks import padded_vocab
from megatron_mplug2.models.bert import mark_vocabulary
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.kernels import linear
from megatron_mplug2.models.linear import Linear
from megatron_mplug2.models.norm import mark_on_shard


class LanguageModelHead(nn.Module):
    """BERT's head: dense, GELU, LayerNorm, vocabulary-parallel projection by the tied word embeddings, bias of its own.

    `tied` is the embedding's weight where that lies on the same stage; else the head holds a copy of its own, kept equal by a tie.
    """

    def __init__(self, context: ModelContext, tied: nn.Parameter | None) -> None:
        super().__init__()
        text, topology = context.config.text, context.topology
        self.dense = Linear(text.hidden, text.hidden)
        self.norm = nn.LayerNorm(text.hidden, eps=text.layer_norm_eps)
        for part in (self.dense, self.norm):
            mark_on_shard(part, topology)
        self._sequence = context.sequence
        rows = padded_vocab(text.vocab_size) // topology.tensor_size
        self.bias = nn.Parameter(torch.empty(rows))
        mark_vocabulary(self.bias, text.vocab_size)
        if tied is None:
            tied = nn.Parameter(torch.empty(rows, text.hidden))
            mark_vocabulary(tied, text.vocab_size)
        self.word = tied

    def forward(self, x: torch.Tensor, length: int, positions: torch.Tensor | None = None) -> torch.Tensor:
        """[s (local), b, h] -> logits [length, b, padded vocabulary / tensor size].

        With `positions` [M], rows of the flattened [length * b], only these: [M, 1, ...] (MLM needs 15 % of them).
        """
        hidden = self._sequence.gather_for_column_parallel(self.norm(F.gelu(self.dense(x))), length)
        if positions is not None:
            hidden = hidden.flatten(0, 1).index_select(0, positions)[:, None]
        return linear(hidden, self.word, self.bias)


class ContrastiveHead(nn.Module):
    """Projections of both modalities' first tokens to a shared, L2-normalised space, and the temperature."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        hidden, width = context.config.text.hidden, context.config.contrastive_width
        self.vision = nn.Linear(hidden, width)
        self.text = nn.Linear(hidden, width)
        self.log_temperature = nn.Parameter(torch.empty(()))
        """log(tau); stays in fp32 whatever the precision."""

    def forward(self, vision_class: torch.Tensor, text_class: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, h] of both -> features [b, d] of both, fp32."""
        return self.vision_features(vision_class), self.text_features(text_class)

    def vision_features(self, class_token: torch.Tensor) -> torch.Tensor:
        """[b, h] -> [b, d], fp32."""
        return F.normalize(self.vision(class_token).float(), dim=-1)

    def text_features(self, class_token: torch.Tensor) -> torch.Tensor:
        """[b, h] -> [b, d], fp32."""
        return F.normalize(self.text(class_token).float(), dim=-1)


class MatchingHead(nn.Module):
    """Match or no match from the fused text's first token (M1's itm_head)."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        self.classifier = nn.Linear(context.config.text.hidden, 2)

    def forward(self, class_token: torch.Tensor) -> torch.Tensor:
        """[b, h] -> [b, 2] logits; class 1 is a match."""
        return self.classifier(class_token)
