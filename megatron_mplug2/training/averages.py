"""Averages over steps of a rank's weights: what momentum encoders are, and what a finetuned model is evaluated with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from torch import nn

from megatron_mplug2.checkpoint.contents import copies_to_load, copies_to_save
from megatron_mplug2.checkpoint.optimizer_state import is_sharded, main_weights
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology


class Mains:
    """The fp32 copies of weights of lower precision: whole on this rank, or with ZeRO-1 a range of each on some data-parallel rank."""

    def __init__(self, optimizer: MegatronOptimizer, topology: Topology) -> None:
        self._of = {entry.param: entry for entry in main_weights(optimizer) if entry.copied}
        self._group = topology.data_group if is_sharded(optimizer) and topology.data_size > 1 else None

    def move(self, average: torch.Tensor, param: nn.Parameter, part: float) -> None:
        """Moves what this rank has a copy of, and leaves zeros elsewhere; `average`: the flattened block."""
        main = self._of.get(param)
        start, stop = (main.start, main.start + main.main.numel()) if main is not None else (0, 0)
        average[:start].zero_()
        average[stop:].zero_()
        if main is not None:
            average[start:stop].lerp_(main.main.view(-1), part)

    def exchange(self, average: torch.Tensor) -> list[dist.Work]:
        """Begins to put the ranks' ranges together, in place. Nothing where each has everything."""
        work = dist.all_reduce(average, group=self._group, async_op=True) if self._group is not None else None
        return [work] if work is not None else []


class Averages:
    """Exponential averages in fp32, of all that this rank holds of some weights: equal on data-parallel ranks.

    With weights in bf16 it is their fp32 copies that are averaged, the numbers that the optimizer updates: at a share of 0.995 a weight may
    take many steps to the next number of bf16, and the average would see none of them.
    """

    def __init__(self, kind: str, weights: Sequence[Weight], share: float, mains: Mains) -> None:
        """`kind`: of its tensors in a checkpoint; `share`: what an average keeps at a step."""
        self.weights = list(weights)
        self._kind, self._share, self._mains = kind, share, mains
        self._averages: list[torch.Tensor] = []

    @property
    def averages(self) -> list[torch.Tensor]:
        """Of each of `weights`, in this rank's shape. They begin as the weights are when first asked for, on all ranks of a stage alike."""
        if not self._averages:
            self._averages = self._zeros()
            self._approach(1.0)
        return self._averages

    def begin(self) -> None:
        """Before the first update: averages begin as the weights that training begins with, wherever those were loaded from."""
        _ = self.averages

    def follow(self) -> None:
        """After an update, when all weights are gathered: average = share x average + (1 - share) x weight."""
        _ = self.averages
        self._approach(1 - self._share)

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros_like(weight.param, dtype=torch.float32) for weight in self.weights]

    @torch.no_grad()
    def _approach(self, part: float) -> None:
        """Moves each average that part of the way to its weight. Collective over data-parallel ranks with ZeRO-1 in bf16."""
        exchanged = []
        for average, weight in zip(self._averages, self.weights, strict=True):
            if weight.param.dtype == average.dtype:
                average.lerp_(weight.param, part)
                continue
            self._mains.move(average.view(-1), weight.param, part)
            exchanged += self._mains.exchange(average)
        for work in exchanged:
            work.wait()

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Around a forward pass with the averages. They stand in the weights' place, so nothing is copied where weights are fp32."""
        current = [weight.param.data for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages, strict=True):
                weight.param.data = average.to(weight.param.dtype)
            yield
        finally:
            for weight, data in zip(self.weights, current, strict=True):
                weight.param.data = data

    def pieces_to_save(self, topology: Topology) -> list[Piece]:
        """What this rank writes into a checkpoint; of a tied pair the embedding's stage writes."""
        kept = [(weight, average) for weight, average in zip(self.weights, self.averages, strict=True) if weight.saves]
        return copies_to_save(self._kind, [weight for weight, _ in kept], [average for _, average in kept], topology)

    def pieces_to_load(self, topology: Topology) -> list[Piece]:
        """What this rank fills: all that it holds."""
        self._averages = self._zeros()
        return copies_to_load(self._kind, self.weights, self._averages, topology)
