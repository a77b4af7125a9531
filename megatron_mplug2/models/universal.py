"""Universal layers: self-attention and FFN shared by text and vision; cross-attention on the vision branch only.

The last S layers of the text encoder (released code). On vision the first one owns the learnable queries; queries attend to the
visual tokens in every layer but the last, where the roles swap: the visual tokens attend to the queries.
"""

import torch
from torch import nn

from megatron_mplug2.models.attention import AttentionMask
from megatron_mplug2.models.bert import BertLayer
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.norm import layer_norm


class UniversalLayer(nn.Module):
    """Layer `index` of the S universal layers."""

    def __init__(self, context: ModelContext, index: int) -> None:
        super().__init__()
        text = context.config.text
        self._sequence, self._keyed, self._dropout = context.sequence, context.dropout, text.dropout
        self._queries = text.queries
        self.first, self.last = index == 0, index == text.universal_layers - 1
        self.layer = BertLayer(context, cross=True)
        if self.first:
            self.queries = nn.Parameter(torch.empty(text.queries, text.hidden))
        if self.last:
            self.visual_norm = layer_norm(text.hidden, text.layer_norm_eps, context.topology)

    def forward(
        self, text: torch.Tensor, mask: AttentionMask, visual: torch.Tensor, queries: torch.Tensor | None, visual_length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both uses: text [L, b', h], and what the vision use yields: queries [q, b, h], or from the last layer visual tokens [n, b, h]."""
        if not self.last:
            return self.text(text, mask), self.refine_queries(queries, visual, visual_length)
        assert queries is not None
        return self.text(text, mask), self.broadcast_queries(queries, visual, visual_length)

    def text(self, x: torch.Tensor, mask: AttentionMask) -> torch.Tensor:
        """Text use: [L, b, h] -> [L, b, h], cross-attention skipped."""
        return self.layer(x, mask)

    def refine_queries(self, queries: torch.Tensor | None, visual: torch.Tensor, visual_length: int) -> torch.Tensor:
        """Vision use of all layers but the last: queries [q, b, h] (the first layer's own) attend to visual tokens [n, b, h]."""
        if queries is None:
            queries = self._sequence.scatter(self.queries[:, None].expand(-1, visual.shape[1], -1).contiguous())
        return self.layer(queries, AttentionMask(length=self._queries), visual, AttentionMask(length=visual_length))

    def broadcast_queries(self, queries: torch.Tensor, visual: torch.Tensor, visual_length: int) -> torch.Tensor:
        """Vision use of the last layer: LN(V + layer(V; memory = queries)), [n, b, h]."""
        updated = self.layer(visual, AttentionMask(length=visual_length), queries, AttentionMask(length=self._queries))
        return self._keyed.hidden(self.visual_norm(visual + updated), self._dropout)
