"""Where DeepSpeed's ZeRO keeps what on a rank: ranges of parameters in flat buffers of fp32 main weights, one a group of parameters.

DeepSpeed's own checkpoints are not used: what is in them depends on stage and data-parallel size, and converting them is wrong without a
word at stage 3 with several groups (0.19.8). From here the run's own checkpoints are written and read, in ranges like any other's.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from megatron_mplug2.parallel.device import device


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a rank updates of a parameter: a range of its flattened block."""

    param: nn.Parameter
    start: int
    """First element of the range, in the flattened block."""
    flat: torch.Tensor
    """[group], the main weights of all of the group's ranges; the key of their optimizer states."""
    group: int
    """The group's number."""
    place: int
    """The range's, among the gradients of the group."""
    offset: int
    """Where the range lies in `flat`, and in the group's states."""
    count: int
    """Elements of it; 0 where other ranks hold all of a small parameter."""
    part: torch.Tensor | None
    """[count], the parameter's own memory, where the rank has no more of it (stage 3)."""

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """[count], live memory, of the main weights or a state of the group."""
        return flat.detach().view(-1).narrow(0, self.offset, self.count)


REFUSED = -1.0
"""A norm that is no number, as DeepSpeed writes it: a step with it makes no update."""


class Shards(ABC):
    """Of one of DeepSpeed's ZeRO optimizers (`zero`), by its stage."""

    def __init__(self, zero: Any, module: nn.Module, data_rank: int) -> None:
        self._zero, self._module, self._data_rank = zero, module, data_rank
        self.norm = REFUSED
        """Of the step's gradients, by which DeepSpeed clips them; or `REFUSED`."""

    def _norm(self) -> torch.Tensor:
        return torch.tensor(self.norm, dtype=torch.float32, device=device())

    @abstractmethod
    def shards(self) -> Iterator[Shard]:
        """Of every trained parameter of which this rank has a range."""

    def of(self, param: nn.Parameter) -> Shard | None:
        """This rank's range of a trained parameter; None where other ranks have all of it."""
        return next((shard for shard in self.shards() if shard.param is param), None)

    @abstractmethod
    def gradient(self, shard: Shard) -> torch.Tensor | None:
        """[count], of the whole step, between its backward and its update; else None."""

    @abstractmethod
    def forget_gradients(self) -> None:
        """DeepSpeed 0.19.8 leaves those of weights that a step doesn't use as the last step did that used them, where they lie in one
        buffer: at stage 3, and offloaded."""

    @abstractmethod
    def frozen(self) -> Iterator[tuple[nn.Parameter, int, torch.Tensor]]:
        """Frozen parameters of which ranks hold ranges, the range's first element, and its memory [n]."""

    @abstractmethod
    def whole(self, param: nn.Parameter) -> torch.Tensor:
        """All of it. Collective over data-parallel ranks at stage 3."""

    @abstractmethod
    def release(self) -> None:
        """Lets go of gathered weights: they are not current once their ranges were written."""


class ReplicatedWeights(Shards):
    """Stages 1 and 2: every rank has all weights whole."""

    def __init__(self, zero: Any, module: nn.Module, data_rank: int) -> None:
        super().__init__(zero, module, data_rank)
        zero.scaled_global_norm = self._norm

    def shards(self) -> Iterator[Shard]:
        groups = zip(self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups, strict=True)
        for group, (params, flat) in enumerate(groups):
            for param in (param for param in params if param._hp_mapping is not None):
                inside, held = param._hp_mapping.lp_fragment_address, param._hp_mapping.hp_fragment_address
                place = param._index_in_param_group
                yield Shard(
                    param=param, start=inside.start, flat=flat, group=group, place=place, offset=held.start, count=held.numel, part=None
                )

    def gradient(self, shard: Shard) -> torch.Tensor | None:
        found = self._zero.offload_gradient_dict if self._zero.cpu_offload else self._zero.averaged_gradients
        gradients = found.get(shard.group)
        return None if gradients is None else gradients[shard.place].view(-1)

    def forget_gradients(self) -> None:
        self._zero.zero_grad()
        if self._zero.cpu_offload:
            for flat in self._zero.single_partition_of_fp32_groups:
                flat.grad.zero_()

    def frozen(self) -> Iterator[tuple[nn.Parameter, int, torch.Tensor]]:
        yield from ()

    def whole(self, param: nn.Parameter) -> torch.Tensor:
        return param.detach()

    def release(self) -> None:
        """None is gathered: each rank reads all of them, and the main weights of its ranges."""


class PartitionedWeights(Shards):
    """Stage 3: of the weights too a rank has ranges alone, but while a module runs."""

    def __init__(self, zero: Any, module: nn.Module, data_rank: int) -> None:
        super().__init__(zero, module, data_rank)
        zero._get_norm_groups = lambda: [self._norm()]

    def shards(self) -> Iterator[Shard]:
        groups = zip(self._zero.fp16_groups, self._zero.fp32_partitioned_groups_flat, strict=True)
        for group, (params, flat) in enumerate(groups):
            offset = 0
            for place, param in enumerate(params):
                start, part = self._part(param)
                yield Shard(param=param, start=start, flat=flat, group=group, place=place, offset=offset, count=part.numel(), part=part)
                offset += param.partition_numel()

    def frozen(self) -> Iterator[tuple[nn.Parameter, int, torch.Tensor]]:
        for param in self._module.parameters():
            if not param.requires_grad:
                yield param, *self._part(param)

    def _part(self, param: Any) -> tuple[int, torch.Tensor]:
        """First element of this rank's range, and the range without its padding."""
        start = param.partition_numel() * self._data_rank
        return start, param.ds_tensor.detach().view(-1)[: max(0, param.ds_numel - start)]

    def gradient(self, shard: Shard) -> torch.Tensor | None:
        if self._zero.offload_optimizer:
            return shard.of(shard.flat.grad)  # type: ignore[arg-type]
        gradients = self._zero.averaged_gradients.get(shard.group)
        return None if gradients is None else gradients[shard.place].view(-1)[: shard.count]

    def forget_gradients(self) -> None:
        self._zero.zero_grad()
        self._zero.grad_partitions_flat_buffer.zero_()
        if self._zero.offload_optimizer:
            for flat in self._zero.fp32_partitioned_groups_flat:
                flat.grad.zero_()

    def whole(self, param: Any) -> torch.Tensor:
        if param.numel() == param.ds_numel:
            return param.detach().clone()
        param.all_gather()
        found: torch.Tensor = param.detach().clone()
        param.partition()
        return found

    def release(self) -> None:
        self._zero.parameter_offload.partition_all_parameters()
