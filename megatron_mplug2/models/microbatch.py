"""One microbatch on its way through a stage: its integers, its masks, its share of the step's contrast, and the losses it gathers."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import PAD, Batch, PairBatch, TextBatch
from megatron_mplug2.models.attention import AttentionMask, QueryGroup
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.parallel.sequence import SequenceShards


@dataclass(frozen=True, kw_only=True)
class ContrastShare:
    """What a microbatch needs of the step's contrast over the global batch."""

    image_for_text: torch.Tensor
    """[b] int64, row in this microbatch of each caption's negative picture; -1: none is valid."""
    text_for_image: torch.Tensor
    """[b] int64, row in this microbatch of each picture's negative caption; -1: none is valid."""
    vision_features: torch.Tensor | None = None
    """[b, d] of the first pass, on the stage that owns them, as are the gradients; None elsewhere."""
    text_features: torch.Tensor | None = None
    vision_grad: torch.Tensor | None = None
    text_grad: torch.Tensor | None = None
    log_temperature_grad: torch.Tensor | None = None
    """Scalar: this microbatch's share of the rank's part of the temperature's gradient."""
    loss: torch.Tensor | None = None
    """Scalar: this microbatch's share of the global loss, so that the sum over microbatches and data-parallel ranks is the loss."""


class ContrastSolver(Protocol):
    """Turns a microbatch's features into its share in its only forward pass, where no first pass has made it."""

    def __call__(self, vision: torch.Tensor, text: torch.Tensor, log_temperature: torch.Tensor) -> ContrastShare: ...


@dataclass(kw_only=True)
class Microbatch:
    batch: Batch
    step: int
    index: int
    """Index of this microbatch in the global batch."""
    objectives: ObjectivesConfig
    divisors: dict[Objective, torch.Tensor]
    """Scalars on the device, which the host never reads: the true global counts of the step, by which each loss sum is divided, and
    infinity where there is nothing to count."""
    sequence: SequenceShards
    shape: BatchShape
    features_only: bool = False
    """First pass of VLC: stop at the features."""
    contrast: ContrastShare | None = None
    solver: ContrastSolver | None = None
    features: tuple[torch.Tensor, torch.Tensor] | None = None
    """[b, d] of vision and text, set by the contrastive head in a first pass or an evaluation."""
    features_differ: torch.Tensor | None = None
    """Scalar bool: the forward pass gave other features than the first pass, by more than rounding; None where there was no first pass."""
    losses: list[torch.Tensor] = field(default_factory=list)
    """Weighted, normalised scalars whose sum over units, microbatches and data-parallel ranks is the step's loss."""
    values: dict[Objective, torch.Tensor] = field(default_factory=dict)
    """Detached, normalised, unweighted share of each objective's value."""

    def add_loss(self, objective: Objective, weight: float, loss_sum: torch.Tensor) -> None:
        """Adds a loss sum over this microbatch's items; divided by the objective's global count (0 where it counts nothing)."""
        value = loss_sum / self.divisors[objective]
        self.losses.append(weight * value)
        self.values[objective] = value.detach()

    @property
    def task(self) -> Task:
        return self.batch.task

    @property
    def pair(self) -> PairBatch:
        assert isinstance(self.batch, PairBatch)
        return self.batch

    @property
    def text(self) -> TextBatch:
        assert isinstance(self.batch, TextBatch)
        return self.batch

    @property
    def samples(self) -> int:
        return self.shape.samples

    @property
    def instructions(self) -> int:
        return self.shape.instructions

    @property
    def first_texts(self) -> int:
        """Rows of TEXT before those of the decoder's instructions."""
        return self.samples * self.shape.texts

    @property
    def first_pairs(self) -> int:
        """Rows of FUSED before those of the decoder's instructions."""
        return self.samples * self.shape.pairs

    @cached_property
    def text_tokens(self) -> torch.Tensor:
        """[rows, L]: the TEXT stream's tokens."""
        text, asked = (self.text.masked, self.text.prefix) if self.task is Task.TEXT else (self.pair.captions, self.pair.instructions)
        return torch.cat(([text] if self.shape.texts else []) + ([asked] if self.shape.instructions else []))

    @cached_property
    def text_keys(self) -> torch.Tensor:
        """[rows, padded L] bool: tokens that may be attended to."""
        return key_mask(self.text_tokens, self.sequence)

    @cached_property
    def text_mask(self) -> AttentionMask:
        return AttentionMask(keys=self.text_keys)

    @cached_property
    def _fused_groups(self) -> tuple[tuple[torch.Tensor, torch.Tensor | None], ...]:
        """Rows of TEXT and rows of VISUAL that make FUSED's 3b + kb pairs, or what of them an objective reads; None: the texts' own."""
        own = torch.arange(self.samples, device=self.text_tokens.device)
        instructions = torch.arange(self.first_texts, self.shape.text_rows, device=own.device)
        asked = ((instructions, None),) if self.instructions else ()
        if not self.shape.pairs:
            return asked
        assert self.contrast is not None
        negative_image = torch.where(self.contrast.image_for_text >= 0, self.contrast.image_for_text, own)
        negative_text = torch.where(self.contrast.text_for_image >= 0, self.contrast.text_for_image, own)
        return (own, None), (own, negative_image), (negative_text, None), *asked

    @cached_property
    def fused_texts(self) -> torch.Tensor:
        """[rows of FUSED] int64: the row of TEXT that each is made of."""
        return torch.cat([texts for texts, _ in self._fused_groups])

    @cached_property
    def fused_mask(self) -> AttentionMask:
        return AttentionMask(keys=self.text_keys.index_select(0, self.fused_texts))

    @cached_property
    def visual_mask(self) -> AttentionMask:
        """Fused pairs attending to the visual tokens of their picture."""
        groups = tuple(QueryGroup(len(texts), images) for texts, images in self._fused_groups)
        return AttentionMask(length=self.shape.visual_length, groups=groups)

    @cached_property
    def prompt_keys(self) -> torch.Tensor:
        """[decoder rows, padded L] bool."""
        return self.text_keys[self.first_texts :]

    @cached_property
    def targets(self) -> torch.Tensor:
        """[decoder rows, target length]."""
        return self.batch.targets

    @property
    def shares(self) -> torch.Tensor | None:
        """[decoder rows], as in PairBatch."""
        return self.batch.shares if isinstance(self.batch, PairBatch) else None

    @property
    def advantages(self) -> torch.Tensor | None:
        """[decoder rows], as in PairBatch."""
        return self.batch.advantages if isinstance(self.batch, PairBatch) else None

    @cached_property
    def target_mask(self) -> AttentionMask:
        return AttentionMask(keys=key_mask(self.targets, self.sequence), causal=True)

    @cached_property
    def memory_mask(self) -> AttentionMask:
        """Decoder tokens attending to [visual tokens; prompt], or to the prompt alone (text)."""
        if self.task is Task.TEXT:
            return AttentionMask(keys=self.prompt_keys)
        rows = self.prompt_keys.shape[0]
        length = self.shape.visual_length
        positions = torch.arange(self.sequence.padded(length), device=self.prompt_keys.device)
        visual_keys = (positions < length).expand(rows, -1)
        return AttentionMask(keys=self.sequence.interleave(visual_keys, self.prompt_keys))


def key_mask(tokens: torch.Tensor, sequence: SequenceShards) -> torch.Tensor:
    """[rows, L] token ids -> [rows, padded L] bool, True at tokens, False at padding."""
    keys = tokens != PAD
    padding = sequence.padded(tokens.shape[1]) - tokens.shape[1]
    return torch.nn.functional.pad(keys, (0, padding)) if padding else keys
