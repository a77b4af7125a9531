"""The run's ranks as one that reads data meets them: they agree on what was found, and tensor-parallel ones share one reading."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from megatron_mplug2.data.batch import moved_tensor
from megatron_mplug2.errors import UserError
from megatron_mplug2.parallel.device import device

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """The ranks that take the same batches, of which the first reads for all."""

    host_group: dist.ProcessGroup
    """They, by the CPU."""
    device_group: dist.ProcessGroup
    """They, by the devices."""


class Peers:
    """Every method is a collective, called by all ranks in the same order.

    What hosts tell each other goes by the CPU. By NCCL it would come to the host through the GPU, after all that is queued there: the next
    step's passes could not be queued before the last update is done.
    """

    def __init__(self, host_group: dist.ProcessGroup, sharing: Sharing | None = None) -> None:
        """`host_group`: all ranks, by the CPU; `sharing`: None where each rank takes its own batches."""
        self._host_group, self._sharing = host_group, sharing
        self.leads = sharing is None or sharing.host_group.rank() == 0

    def gather(self, found: T | UserError) -> list[T]:
        """What all ranks found, in order of rank. Where one of them found an error, all raise it: the first one's."""
        everyone: list[T | UserError] = [found] * self._host_group.size()
        dist.all_gather_object(everyone, found, group=self._host_group)
        results: list[T] = []
        for result in everyone:
            if isinstance(result, UserError):
                raise result
            results.append(result)
        return results

    def share(self, value: T | None, media: torch.Tensor | None) -> tuple[T, torch.Tensor | None]:
        """What the leading rank gives, on each that shares with it; others give None. A value that is small and pickles; media of any size,
        handed on by the devices."""
        if self._sharing is None:
            assert value is not None
            return value, media
        told = [None if value is None else (value, None if media is None else (media.shape, media.dtype))]
        dist.broadcast_object_list(told, group=self._sharing.host_group, group_src=0)
        assert told[0] is not None
        shared, kind = told[0]
        if kind is None:
            return shared, None
        shape, dtype = kind
        everyones = moved_tensor(media, device()) if media is not None else torch.empty(shape, dtype=dtype, device=device())
        dist.broadcast(everyones, group=self._sharing.device_group, group_src=0)
        return shared, everyones
