"""Which released tensors make each of this project's weights, of which shape they must be, and how they are put together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig

Assemble = Callable[..., torch.Tensor]
"""Full released tensors of a rule's sources -> the full weight."""
TakeApart = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""The inverse, up to the sources' shapes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A released tensor, by its name without the `bert.` infix."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How one weight is made."""

    name: str
    """The weight's canonical name."""
    sources: tuple[Source, ...]
    assemble: Assemble
    take_apart: TakeApart = lambda weight: (weight,)

    @property
    def size(self) -> torch.Size:
        """Of the weight."""
        return self.assemble(*(torch.empty(source.shape, device="meta") for source in self.sources)).shape

    def released(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The released tensors of a weight, by name."""
        parts = self.take_apart(weight)
        return {source.name: part.reshape(source.shape) for source, part in zip(self.sources, parts, strict=True)}


def rules(config: ModelConfig, fusion_start: int) -> Iterator[Rule]:
    """A rule for every weight that released files hold; `fusion_start`: number of the first released fusion layer that runs."""
    vision, text = config.vision, config.text
    yield from _vision(vision)
    if vision.width != text.hidden:
        yield from _linear("vision.output.projection", "visn_fc", text.hidden, vision.width)
        yield from _norm("vision.output.projection_norm", "visn_layer_norm", text.hidden)
    yield from _embedding("text.embedding", "text_encoder", text)
    first_universal = text.layers - text.universal_layers
    for index in range(text.layers):
        source = f"text_encoder.encoder.layer.{index}"
        universal = index >= first_universal
        target = f"universal.layers.{index - first_universal}.layer" if universal else f"text.layers.{index}"
        yield from _layer(target, source, text, cross=universal)
    latents = f"text_encoder.encoder.layer.{first_universal}.latents"
    yield _copy("universal.layers.0.queries", latents, text.queries, text.hidden)
    yield from _norm(f"universal.layers.{text.universal_layers - 1}.visual_norm", "visn_emb_norm", text.hidden)
    for index in range(config.fusion_layers):
        yield from _layer(f"fusion.layers.{index}", f"fusion_encoder.encoder.layer.{fusion_start + index}", text, cross=True)
    yield from _embedding("decoder.embedding", "text_decoder", text)
    for index in range(config.decoder_layers):
        yield from _layer(f"decoder.layers.{index}", f"text_decoder.encoder.layer.{index}", text, cross=True)
    head = "text_decoder.cls.predictions"
    yield from _linear("heads.lm.dense", f"{head}.transform.dense", text.hidden, text.hidden)
    yield from _norm("heads.lm.norm", f"{head}.transform.LayerNorm", text.hidden)
    yield _copy("heads.lm.bias", f"{head}.bias", text.vocab_size)


def _vision(vision: VisionConfig) -> Iterator[Rule]:
    visual, width = "visual_encoder.visual", vision.width
    kernel = Source(name=f"{visual}.conv1.weight", shape=(width, 3, 1, vision.patch, vision.patch))
    yield Rule(name="vision.embedding.patch", sources=(kernel,), assemble=partial(torch.squeeze, dim=2))
    yield _copy("vision.embedding.class_token", f"{visual}.class_embedding", width)
    yield _copy("vision.embedding.position", f"{visual}.positional_embedding", 1 + vision.grid**2, width)
    yield from _norm("vision.embedding.norm", f"{visual}.ln_pre", width)
    for index in range(vision.blocks):
        yield from _vision_block(f"vision.blocks.{index}", f"{visual}.transformer.resblocks.{index}", vision)
    yield from _norm("vision.output.norm", f"{visual}.ln_post", width)


def _vision_block(target: str, source: str, vision: VisionConfig) -> Iterator[Rule]:
    width = vision.width
    for index in range(vision.temporal_modules):
        yield from _temporal(f"{target}.temporal.{index}", f"{source}.lmhra{index + 1}", width)
    yield from _norm(f"{target}.attention_norm", f"{source}.ln_1", width)
    for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
        fused = Source(name=f"{source}.attn.in_proj_{kind}", shape=shape)
        yield Rule(
            name=f"{target}.attention.linear_qkv.{kind}",
            sources=(fused,),
            assemble=partial(_interleave_stacked, heads=vision.heads),
            take_apart=partial(_stack, heads=vision.heads),
        )
    yield from _linear(f"{target}.attention.linear_proj", f"{source}.attn.out_proj", width, width)
    yield from _norm(f"{target}.mlp_norm", f"{source}.ln_2", width)
    yield from _linear(f"{target}.mlp.linear_fc1", f"{source}.mlp.c_fc", vision.ffn, width)
    yield from _linear(f"{target}.mlp.linear_fc2", f"{source}.mlp.c_proj", width, vision.ffn)


def _temporal(target: str, source: str, width: int) -> Iterator[Rule]:
    bottleneck = width // 2
    yield from _norm(f"{target}.norm", f"{source}.ln", width)
    yield from _pointwise(f"{target}.down", f"{source}.down_proj", bottleneck, width)
    taps = Source(name=f"{source}.conv.weight", shape=(bottleneck, 1, 3, 1, 1))
    yield Rule(name=f"{target}.taps", sources=(taps,), assemble=partial(torch.flatten, start_dim=1))
    yield _copy(f"{target}.taps_bias", f"{source}.conv.bias", bottleneck)
    yield from _pointwise(f"{target}.up", f"{source}.up_proj", width, bottleneck)


def _embedding(target: str, source: str, text: TextConfig) -> Iterator[Rule]:
    embeddings = f"{source}.embeddings"
    yield _copy(f"{target}.word.weight", f"{embeddings}.word_embeddings.weight", text.vocab_size, text.hidden)
    yield _copy(f"{target}.position", f"{embeddings}.position_embeddings.weight", text.positions, text.hidden)
    yield _copy(f"{target}.token_type", f"{embeddings}.token_type_embeddings.weight", text.token_types, text.hidden)
    yield from _norm(f"{target}.norm", f"{embeddings}.LayerNorm", text.hidden)


def _layer(target: str, source: str, text: TextConfig, *, cross: bool) -> Iterator[Rule]:
    yield from _bert_attention(f"{target}.self_attention", f"{source}.attention", text, {"linear_qkv": ("query", "key", "value")})
    if cross:
        parts = {"linear_q": ("query",), "linear_kv": ("key", "value")}
        yield from _bert_attention(f"{target}.cross_attention", f"{source}.crossattention", text, parts)
    yield from _linear(f"{target}.mlp.linear_fc1", f"{source}.intermediate.dense", text.ffn, text.hidden)
    yield from _linear(f"{target}.mlp.linear_fc2", f"{source}.output.dense", text.hidden, text.ffn)
    yield from _norm(f"{target}.mlp_norm", f"{source}.output.LayerNorm", text.hidden)


def _bert_attention(target: str, source: str, text: TextConfig, fused: dict[str, tuple[str, ...]]) -> Iterator[Rule]:
    """`fused`: each projection of ours, and the released ones that it is made of."""
    hidden = text.hidden
    for projection, parts in fused.items():
        for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
            sources = tuple(Source(name=f"{source}.self.{part}.{kind}", shape=shape) for part in parts)
            yield Rule(
                name=f"{target}.{projection}.{kind}",
                sources=sources,
                assemble=partial(_interleave, heads=text.heads),
                take_apart=partial(_separate, parts=len(parts), heads=text.heads),
            )
    yield from _linear(f"{target}.linear_proj", f"{source}.output.dense", hidden, hidden)
    yield from _norm(f"{target}_norm", f"{source}.output.LayerNorm", hidden)


def _linear(target: str, source: str, outputs: int, inputs: int) -> Iterator[Rule]:
    yield _copy(f"{target}.weight", f"{source}.weight", outputs, inputs)
    yield _copy(f"{target}.bias", f"{source}.bias", outputs)


def _pointwise(target: str, source: str, outputs: int, inputs: int) -> Iterator[Rule]:
    """A 1 x 1 x 1 convolution as a linear layer."""
    kernel = Source(name=f"{source}.weight", shape=(outputs, inputs, 1, 1, 1))
    yield Rule(name=f"{target}.weight", sources=(kernel,), assemble=partial(torch.squeeze, dim=(2, 3, 4)))
    yield _copy(f"{target}.bias", f"{source}.bias", outputs)


def _norm(target: str, source: str, width: int) -> Iterator[Rule]:
    yield _copy(f"{target}.weight", f"{source}.weight", width)
    yield _copy(f"{target}.bias", f"{source}.bias", width)


def _copy(target: str, source: str, *shape: int) -> Rule:
    return Rule(name=target, sources=(Source(name=source, shape=shape),), assemble=_as_it_is)


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _interleave(*parts: torch.Tensor, heads: int) -> torch.Tensor:
    """Projections [h, ...] -> Megatron-Core's fused one: rows of head 0 of every part, then of head 1, ... A single part stays as it is."""
    by_head = torch.stack([part.unflatten(0, (heads, -1)) for part in parts], dim=1)
    return by_head.flatten(0, 2)


def _interleave_stacked(stacked: torch.Tensor, *, heads: int) -> torch.Tensor:
    """CLIP's [all q; all k; all v] -> the same."""
    return _interleave(*stacked.chunk(3), heads=heads)


def _separate(fused: torch.Tensor, *, parts: int, heads: int) -> list[torch.Tensor]:
    """The inverse of `_interleave`."""
    return [part.flatten(0, 1) for part in fused.unflatten(0, (heads, parts, -1)).unbind(1)]


def _stack(fused: torch.Tensor, *, heads: int) -> tuple[torch.Tensor]:
    """The inverse of `_interleave_stacked`."""
    return (torch.cat(_separate(fused, parts=3, heads=heads)),)
