"""What an optimizer holds on this rank for each parameter of the model: Megatron-Core's, or one that says it itself.

Megatron-Core 0.16.1's own state dictionaries are not used: with torch's Adam its DistributedOptimizer cannot load them, gives every
parameter one shared step counter, and pairs parameters of mixed precision in one group wrongly.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer
from torch import nn

STEP = "step"
"""Adam's count of updates, a scalar beside the states that have a weight's size."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A parameter's optimizer state on this rank: of the whole block, or of a flat range of it with ZeRO-1."""

    start: int
    """First element of the range, in the flattened block."""
    values: torch.Tensor
    """[n], the numbers that the optimizer updates: the parameter's own memory, or its fp32 copy."""
    copied: bool
    """True where `values` is an fp32 copy beside a parameter of lower precision."""
    states: dict[str, torch.Tensor]
    """Name -> [n], live memory of the moments."""
    step: torch.Tensor | None
    """Scalar, live memory of the count of updates; None for an optimizer that doesn't count."""
    part: torch.Tensor | None = None
    """[n], the parameter's own memory of the range, where the rank has no more of it (ZeRO 3); None where it has all."""


@dataclass(frozen=True, kw_only=True)
class Main:
    """What the optimizer updates for a parameter of the model."""

    param: nn.Parameter
    main: torch.Tensor
    """What the inner optimizer has in its groups: the parameter itself, its fp32 copy, or with ZeRO-1 this rank's flat range of one."""
    start: int
    """First element of the range, in the flattened block."""
    copied: bool
    """True where it is an fp32 copy beside a parameter of lower precision."""


class ShardedOptimizer(ABC):
    """Another optimizer than Megatron-Core's, whose data-parallel ranks hold ranges of the flattened blocks."""

    state_names: tuple[str, ...]
    """Of the states that it keeps for every parameter, the step among them."""

    @abstractmethod
    def held_states(self) -> dict[nn.Parameter, Held]:
        """As the function below; of a frozen parameter too where ranks hold ranges of it, without states."""

    @abstractmethod
    def main_weights(self) -> Iterator[Main]:
        """As the function below."""

    def get_grad_stats_parallel_group(self) -> dist.ProcessGroup | None:
        """Over which norms are summed, by Megatron-Core's name for it: all ranks."""
        return None


Optimizer: TypeAlias = MegatronOptimizer | ShardedOptimizer


def held_states(optimizer: Optimizer) -> dict[nn.Parameter, Held]:
    """All that this rank's optimizer holds, by parameter of the model; states that no step has made yet are made as zeros."""
    if isinstance(optimizer, ShardedOptimizer):
        return optimizer.held_states()
    held = {}
    for part in _parts(optimizer):
        inner = part.optimizer
        groups = {id(main): group for group in inner.param_groups for main in group["params"]}
        for entry in _mains(part):
            state = inner.state[entry.main]
            prime(state, entry.main, _state_names(inner), groups[id(entry.main)])
            held[entry.param] = Held(
                start=entry.start,
                values=entry.main.detach().view(-1),
                copied=entry.copied,
                states={name: state[name].view(-1) for name in _state_names(inner) if name != STEP},
                step=state.get(STEP),
            )
    return held


def main_weights(optimizer: Optimizer) -> Iterator[Main]:
    """Of each parameter of the model that this rank updates, whole or in part."""
    if isinstance(optimizer, ShardedOptimizer):
        yield from optimizer.main_weights()
        return
    for part in _parts(optimizer):
        yield from _mains(part)


def state_names(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the states that the optimizer keeps for every parameter, the step among them."""
    if isinstance(optimizer, ShardedOptimizer):
        return optimizer.state_names
    return tuple(dict.fromkeys(name for part in _parts(optimizer) for name in _state_names(part.optimizer)))


def is_sharded(optimizer: Optimizer) -> bool:
    """Whether data-parallel ranks hold ranges (ZeRO) instead of everything."""
    return isinstance(optimizer, ShardedOptimizer) or any(isinstance(part, DistributedOptimizer) for part in _parts(optimizer))


def _parts(optimizer: MegatronOptimizer) -> list[Any]:
    """The optimizers inside a chain, without those that have nothing to train."""
    parts = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
    return [part for part in parts if not part.is_stub_optimizer]


def _mains(part: Any) -> Iterator[Main]:
    if isinstance(part, DistributedOptimizer):
        yield from _sharded_mains(part, part.model_float16_groups, part.shard_fp32_from_float16_groups, copied=True)
        yield from _sharded_mains(part, part.model_fp32_groups, part.shard_fp32_groups, copied=False)
    elif isinstance(part, Float16OptimizerWithFloat16Params):
        for params, mains in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
            for param, main in zip(params, mains, strict=True):
                yield Main(param=param, main=main, start=0, copied=True)
        for params in part.fp32_from_fp32_groups:
            yield from (Main(param=param, main=param, start=0, copied=False) for param in params)
    elif isinstance(part, FP32Optimizer):
        for group in part.optimizer.param_groups:
            yield from (Main(param=param, main=param, start=0, copied=False) for param in group["params"])
    else:
        raise TypeError(f"no checkpoint of {type(part).__name__}: its parameters' state is kept in a way of its own")


def _sharded_mains(part: DistributedOptimizer, groups: list[Any], shard_groups: list[Any], *, copied: bool) -> Iterator[Main]:
    for params, shards in zip(groups, shard_groups, strict=True):
        for param, shard in zip(params, shards, strict=True):
            start = part._get_model_param_range_map(param)["param"].start
            yield Main(param=param, main=shard, start=start, copied=copied)


def _state_names(inner: torch.optim.Optimizer) -> tuple[str, ...]:
    if isinstance(inner, torch.optim.Adam):  # AdamW is one
        return ("exp_avg", "exp_avg_sq", STEP)
    if isinstance(inner, torch.optim.SGD):
        return ("momentum_buffer",) if any(group["momentum"] for group in inner.param_groups) else ()
    raise TypeError(f"no checkpoint of {type(inner).__name__}'s state: torch's Adam, AdamW and SGD are known")


def prime(state: dict[str, Any], main: torch.Tensor, names: tuple[str, ...], group: dict[str, Any]) -> None:
    """Makes in `state` what the first step would make of `names`, as zeros: the next step is the same as from no state."""
    for name in names:
        if state.get(name) is not None:
            continue
        if name == STEP:
            on_device = group.get("fused") or group.get("capturable")
            state[name] = torch.zeros((), dtype=torch.float32, device=main.device if on_device else "cpu")
        else:
            state[name] = torch.zeros_like(main.detach())
