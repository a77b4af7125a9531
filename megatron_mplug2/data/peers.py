"""The run's ranks as one that reads data meets them: they agree on what was found, and tensor-parallel ones share one reading."""

from typing import TypeVar

import torch
import torch.distributed as dist

from megatron_mplug2.errors import UserError
from megatron_mplug2.parallel.device import device

T = TypeVar("T")


class Peers:
    """Every method is a collective, called by all ranks in the same order."""

    def __init__(self, tensor_group: dist.ProcessGroup | None) -> None:
        """`tensor_group`: the ranks that take the same batches; None where each takes its own. Its first rank reads for all."""
        self._tensor_group = tensor_group
        self.leads = tensor_group is None or tensor_group.rank() == 0

    def gather(self, found: T | UserError) -> list[T]:
        """What all ranks of the world found, in order of rank. Where one of them found an error, all raise it: the first one's."""
        everyone: list[T | UserError] = [found] * dist.get_world_size()
        dist.all_gather_object(everyone, found)
        results: list[T] = []
        for result in everyone:
            if isinstance(result, UserError):
                raise result
            results.append(result)
        return results

    def share(self, value: T | None, media: torch.Tensor | None) -> tuple[T, torch.Tensor | None]:
        """What the leading rank of the tensor group gives, on each of its ranks; others give None. A value that is small and pickles;
        media of any size, handed on by the devices."""
        if self._tensor_group is None:
            assert value is not None
            return value, media
        told = [None if value is None else (value, None if media is None else (media.shape, media.dtype))]
        dist.broadcast_object_list(told, group=self._tensor_group, group_src=0)
        assert told[0] is not None
        shared, kind = told[0]
        if kind is None:
            return shared, None
        shape, dtype = kind
        everyones = media.to(device()) if media is not None else torch.empty(shape, dtype=dtype, device=device())
        dist.broadcast(everyones, group=self._tensor_group, group_src=0)
        return shared, everyones
