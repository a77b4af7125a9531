"""The video caption step's model as a plain program would have it: the parts of transformers that match, explicit attention as the released
code has it, PyTorch's layers for the rest. No kernels, no parallelism, no shared projections: what ours is measured against.

Same modules, widths and lengths as ours: vision encoder with local temporal modules, instruction through text encoder and universal layers,
both through the fusion module, decoder on [visual tokens; fused instruction], tied LM head.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, CLIPVisionConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertLMPredictionHead
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.data.batch import IGNORED, PAD

EAGER = "eager"
_MASKED = torch.finfo(torch.float32).min


class ReferenceModel(nn.Module):
    """Of a clip's instruction and its answer, the loss."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        text = model.text
        bert = _bert_config(text)
        self.vision = _Vision(model.vision, text.hidden)
        self.words = BertEmbeddings(bert)
        self.text = nn.ModuleList(BertLayer(bert) for _ in range(text.layers - text.universal_layers))
        self.universal = nn.ModuleList(BertLayer(bert) for _ in range(text.universal_layers))
        self.queries = nn.Parameter(0.02 * torch.randn(text.queries, text.hidden))
        self.visual_norm = nn.LayerNorm(text.hidden, eps=text.layer_norm_eps)
        self.dropout = nn.Dropout(text.dropout)
        self.fusion = nn.ModuleList(BertLayer(bert) for _ in range(model.fusion_layers))
        self.target_words = BertEmbeddings(bert)
        self.decoder = nn.ModuleList(BertLayer(bert) for _ in range(model.decoder_layers))
        self.head = BertLMPredictionHead(bert)
        self.head.decoder.weight = self.target_words.word_embeddings.weight

    def forward(self, media: torch.Tensor, instructions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R], [b, L] and [b, M] token ids -> mean cross-entropy of the answers' tokens."""
        visual = self._universal_vision(self.vision(media))
        prompt_mask = _padding(instructions)
        prompt = self.words(instructions)
        for layer in (*self.text, *self.universal):
            prompt = layer(prompt, prompt_mask)
        everything = prompt_mask.new_zeros(len(media), 1, 1, visual.shape[1])
        for layer in self.fusion:
            prompt = layer(prompt, prompt_mask, visual, everything)
        memory, memory_mask = torch.cat([visual, prompt], 1), torch.cat([everything, prompt_mask], -1)
        x, causal = self.target_words(targets), _padding(targets) + _causal(targets)
        for layer in self.decoder:
            x = layer(x, causal, memory, memory_mask)
        labels = targets[:, 1:].masked_fill(targets[:, 1:] == PAD, IGNORED)
        return F.cross_entropy(self.head(x)[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def _universal_vision(self, visual: torch.Tensor) -> torch.Tensor:
        """Queries read the visual tokens in all universal layers but the last, where the tokens read the queries."""
        queries = self.queries.expand(len(visual), -1, -1)
        all_visual, all_queries = (visual.new_zeros(len(visual), 1, 1, length) for length in (visual.shape[1], queries.shape[1]))
        *refining, broadcasting = self.universal
        for layer in refining:
            queries = layer(queries, all_queries, visual, all_visual)
        return self.dropout(self.visual_norm(visual + broadcasting(visual, all_visual, queries, all_queries)))


class _Vision(nn.Module):
    def __init__(self, vision: VisionConfig, hidden: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, vision.width, vision.patch, vision.patch, bias=False)
        self.class_token = nn.Parameter(torch.zeros(vision.width))
        self.position = nn.Parameter(0.02 * torch.randn(1 + vision.grid**2, vision.width))
        self.first_norm = nn.LayerNorm(vision.width)
        self.blocks = nn.ModuleList(_VisionBlock(vision) for _ in range(vision.blocks))
        self.last_norm = nn.LayerNorm(vision.width)
        self.projection = nn.Identity() if vision.width == hidden else nn.Linear(vision.width, hidden)

    def forward(self, media: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R] -> [b, 1 + T * patches, hidden]."""
        samples, frames = len(media), media.shape[2]
        patches = self.patches(media.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(patches), 1, -1), patches], 1)
        x = self.first_norm(x + self.position)
        for block in self.blocks:
            x = block(x, frames)
        x = x.unflatten(0, (samples, frames))
        x = torch.cat([x[:, :, :1].mean(1), x[:, :, 1:].flatten(1, 2)], 1)
        projected: torch.Tensor = self.projection(self.last_norm(x))
        return projected


class _VisionBlock(nn.Module):
    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        clip = CLIPVisionConfig(
            hidden_size=vision.width, intermediate_size=vision.ffn, num_attention_heads=vision.heads, hidden_act="quick_gelu"
        )
        clip._attn_implementation = EAGER
        self.temporal = nn.ModuleList(_LocalTemporal(vision.width) for _ in range(vision.temporal_modules))
        self.norm, self.attention = nn.LayerNorm(vision.width), CLIPAttention(clip)
        self.mlp_norm, self.mlp = nn.LayerNorm(vision.width), CLIPMLP(clip)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """[b * T, 1 + patches, width] -> same."""
        first, *second = self.temporal
        x = x + first(x, frames)
        x = x + self.attention(self.norm(x))[0]
        for temporal in second:
            x = x + temporal(x, frames)
        mixed: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return mixed


class _LocalTemporal(nn.Module):
    """As the released code has it: a depthwise 3D convolution of 3 frames on the patches alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.norm, self.down, self.up = nn.LayerNorm(width), nn.Linear(width, inner), nn.Linear(inner, width)
        self.mix = nn.Conv3d(inner, inner, (3, 1, 1), padding=(1, 0, 0), groups=inner)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        y = self.down(self.norm(x[:, 1:]))
        clips = y.unflatten(0, (-1, frames)).permute(0, 3, 1, 2)[..., None]  # [b, inner, T, patches, 1]
        y = self.mix(clips)[..., 0].permute(0, 2, 3, 1).flatten(0, 1)
        return F.pad(self.up(y * torch.sigmoid(1.702 * y)), (0, 0, 1, 0))


def _bert_config(text: TextConfig) -> BertConfig:
    config = BertConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden,
        num_attention_heads=text.heads,
        intermediate_size=text.ffn,
        max_position_embeddings=text.positions,
        hidden_dropout_prob=text.dropout,
        attention_probs_dropout_prob=text.attention_dropout,
        is_decoder=True,
        add_cross_attention=True,
    )
    config._attn_implementation = EAGER
    return config


def _padding(tokens: torch.Tensor) -> torch.Tensor:
    """[b, L] -> [b, 1, 1, L], added to scores."""
    return (tokens == PAD).float()[:, None, None] * _MASKED


def _causal(tokens: torch.Tensor) -> torch.Tensor:
    length = tokens.shape[1]
    return torch.full((length, length), _MASKED, device=tokens.device).triu(1) / 2  # with the padding's it is still finite
