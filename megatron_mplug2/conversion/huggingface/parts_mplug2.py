"""The parts of mPLUG-2 after its vision encoder: text encoder, universal layers, fusion, decoder, heads. Batch first."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from .configuration_mplug2 import MPlug2Config
from .layers_mplug2 import BertEmbedding, BertLayer, LanguageModelHead, LayerCache


class TextEncoder(nn.Module):
    """Embedding and the layers before the universal ones."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.embedding = BertEmbedding(config)
        self.layers = nn.ModuleList(BertLayer(config, cross=False) for _ in range(config.text_layers - config.text_universal_layers))


class UniversalLayer(nn.Module):
    """Serves texts without, and visual tokens with its cross-attention."""

    def __init__(self, config: MPlug2Config, index: int) -> None:
        super().__init__()
        self.layer = BertLayer(config, cross=True)
        if index == 0:
            self.queries = nn.Parameter(torch.empty(config.text_queries, config.text_hidden))
        if index == config.text_universal_layers - 1:
            self.visual_norm = nn.LayerNorm(config.text_hidden, eps=config.text_layer_norm_eps)
            self.dropout = nn.Dropout(config.text_dropout)


class UniversalLayers(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(UniversalLayer(config, index) for index in range(config.text_universal_layers))

    def media(self, visual: torch.Tensor) -> torch.Tensor:
        """[b, n, h] -> same: queries attend to the visual tokens, in the last layer the visual tokens to the queries."""
        *refining, last = cast(list[UniversalLayer], list(self.layers))
        queries = refining[0].queries.expand(len(visual), -1, -1)
        for universal in refining:
            queries = universal.layer(queries, None, visual)
        return last.dropout(last.visual_norm(visual + last.layer(visual, None, queries)))


class Fusion(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BertLayer(config, cross=True) for _ in range(config.fusion_layers))


@dataclass
class Memory:
    """What the decoder attends to."""

    tokens: torch.Tensor
    """[b, m, h]."""
    mask: torch.Tensor | None
    """[b, 1, 1, m] bool; None: all of it."""


class Decoder(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.embedding = BertEmbedding(config)
        self.layers = nn.ModuleList(BertLayer(config, cross=True) for _ in range(config.decoder_layers))

    def forward(self, ids: torch.Tensor, keys: torch.Tensor, memory: Memory) -> torch.Tensor:
        """[b, t] ids, all at once, and `keys` [b, t] bool, False at padding -> [b, t, h]."""
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        mask = causal & keys[:, None, None]
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask, memory.tokens, memory.mask)
        return x

    def step(self, ids: torch.Tensor, memory: Memory, caches: list[LayerCache], position: int) -> torch.Tensor:
        """[rows] newest ids, at `position` -> [rows, h]; `caches` grow by one token."""
        x = self.embedding(ids[:, None], position)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, None, memory.tokens, memory.mask, cache)
        return x[:, 0]


class ContrastiveHead(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.vision = nn.Linear(config.text_hidden, config.contrastive_width)
        self.text = nn.Linear(config.text_hidden, config.contrastive_width)
        self.log_temperature = nn.Parameter(torch.empty(()))


class MatchingHead(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.classifier = nn.Linear(config.text_hidden, 2)


class Heads(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.lm = LanguageModelHead(config)
        if config.pretraining_heads:
            self.mlm = LanguageModelHead(config)
            self.contrast = ContrastiveHead(config)
            self.matching = MatchingHead(config)
