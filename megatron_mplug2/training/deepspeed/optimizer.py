"""DeepSpeed's optimizer as checkpoints and norms see it, and the groups that it is made with."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from megatron_mplug2.checkpoint.optimizer_state import STEP, Held, Main, ShardedOptimizer, prime
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.training.deepspeed.shards import Shards
from megatron_mplug2.training.optimizer import rule_of

MOMENTS = ("exp_avg", "exp_avg_sq")


def make_adamw(config: RunConfig, weights: Sequence[Weight]) -> torch.optim.AdamW:
    """Over the trained weights, in a group for each rule of learning rate and weight decay; `LearningRate` sets both at each step."""
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for weight in weights:
        if weight.param.requires_grad:
            rule = rule_of(weight, config)
            group = groups.setdefault(tuple(rule.values()), {**rule, "params": []})
            group["params"].append(weight.param)
    settings = config.optimizer
    return torch.optim.AdamW(list(groups.values()), lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps)


class ZeroOptimizer(ShardedOptimizer):
    """Stages 1 to 3."""

    state_names = (*MOMENTS, STEP)

    def __init__(self, adamw: torch.optim.Optimizer, shards: Shards) -> None:
        self._adamw, self._shards = adamw, shards

    def held_states(self) -> dict[nn.Parameter, Held]:
        """A group's ranges share its count of updates: every parameter is updated at every step."""
        held = {}
        for shard in self._shards.shards():
            state = self._adamw.state[shard.flat]
            prime(state, shard.flat, self.state_names, self._adamw.defaults)
            held[shard.param] = Held(
                start=shard.start,
                values=shard.of(shard.flat),
                copied=True,
                states={name: shard.of(state[name]) for name in MOMENTS},
                step=state[STEP],
                part=shard.part,
            )
        for param, start, part in self._shards.frozen():
            held[param] = Held(start=start, values=part, copied=False, states={}, step=None, part=part)
        return held

    def main_weights(self) -> Iterator[Main]:
        """With their gradients, between a step's backward and its update."""
        for shard in self._shards.shards():
            main = shard.of(shard.flat)
            gradient = self._shards.gradient(shard)
            main.grad = gradient.to(main.dtype) if gradient is not None else None
            yield Main(param=shard.param, main=main, start=shard.start, copied=True)
