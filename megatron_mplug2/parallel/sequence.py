"""Sequence parallelism: activations split along their first (sequence) dimension over tensor-parallel ranks.

Token counts such as 257 and 4097 are odd, so every sequence is padded at its end to a multiple of the tensor-parallel size; the
padding is never attended to and is cut off when the sequence is gathered. Without sequence parallelism all of this is the identity.
"""

from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from torch.nn import functional as F

from megatron_mplug2.parallel.topology import Topology


@dataclass(frozen=True)
class SequenceShards:
    """How a sequence is laid out over the tensor-parallel ranks."""

    topology: Topology

    @property
    def _size(self) -> int:
        return self.topology.tensor_size if self.topology.sequence_parallel else 1

    def padded(self, length: int) -> int:
        """Length of a sequence of `length` tokens with its padding."""
        return -(-length // self._size) * self._size

    def local(self, length: int) -> int:
        """Tokens that this rank holds of a sequence of `length` tokens."""
        return self.padded(length) // self._size

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """[s, ...], equal on all tensor-parallel ranks -> this rank's [local(s), ...]. Backward gathers: gradients stay complete."""
        if self._size == 1:
            return x
        padding = self.padded(x.shape[0]) - x.shape[0]
        if padding:
            x = F.pad(x, (0, 0) * (x.dim() - 1) + (0, padding))
        return scatter_to_sequence_parallel_region(x, group=self.topology.tensor_group)

    def gather(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """[local(s), ...] -> [length, ...] on every rank, for work that all ranks do alike (backward takes this rank's part)."""
        if self._size == 1:
            return x
        whole = gather_from_sequence_parallel_region(x, tensor_parallel_output_grad=False, group=self.topology.tensor_group)
        return whole[:length]

    def gather_for_column_parallel(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """[local(s), ...] -> [length, ...] as the input of a weight that is split by its output: backward sums the ranks' parts."""
        if self._size == 1:
            return copy_to_tensor_model_parallel_region(x, group=self.topology.tensor_group)
        return gather_from_sequence_parallel_region(x, group=self.topology.tensor_group)[:length]

    def first_token(self, x: torch.Tensor) -> torch.Tensor:
        """[local(s), b, h] -> [b, h], token 0, which lies on tensor-parallel rank 0."""
        return self.gather(x[:1], 1)[0]

    def positions(self, length: int) -> range:
        """Positions in the padded sequence that this rank holds."""
        local = self.local(length)
        start = local * self.topology.tensor_rank if self._size > 1 else 0
        return range(start, start + local)

    def interleave(self, *masks: torch.Tensor) -> torch.Tensor:
        """Key masks [b, padded_i] of streams that were concatenated shard by shard -> [b, sum], in the order of the gathered keys."""
        if self._size == 1:
            return torch.cat(masks, dim=1)
        parts = [mask.chunk(self._size, dim=1) for mask in masks]
        return torch.cat([part[rank] for rank in range(self._size) for part in parts], dim=1)
