"""Norms of gradients and weights by module of the model that is trained, the same at every layout up to rounding."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from megatron_mplug2.checkpoint.optimizer_state import main_weights
from megatron_mplug2.config.model import Module
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training.interface import TrainingEngine


def gradient_norms(engine: TrainingEngine) -> dict[str, float]:
    """By the module's name: of the whole step's gradients, once the optimizer has prepared them and before they are clipped.

    Collective over the world.
    """
    return _norms(engine, lambda main: main.grad)


def weight_norms(engine: TrainingEngine) -> dict[str, float]:
    """Of the numbers that the optimizer updates (fp32). Collective over the world."""
    return _norms(engine, lambda main: main.detach())


@torch.no_grad()
def _norms(engine: TrainingEngine, values: Callable[[torch.Tensor], torch.Tensor | None]) -> dict[str, float]:
    """One reduction over the ranks among which the optimizer has split or shared out the weights."""
    squares = torch.zeros(len(Module), dtype=torch.float64, device=device())
    numbers: dict[Module, list[torch.Tensor]] = {module: [] for module in Module}
    for module, main in _counted(engine):
        found = values(main)
        if found is not None and found.numel():
            numbers[module].append(found.float())
    for place, held in enumerate(numbers.values()):
        if held:  # one call for all of a module: a weight each, it would be thousands of launches
            squares[place] = torch.stack(torch._foreach_norm(held)).double().square().sum()
    dist.all_reduce(squares, group=engine.optimizer.get_grad_stats_parallel_group())
    norms = zip(Module, squares.sqrt().tolist(), strict=True)
    return {module.value: norm for module, norm in norms if module not in engine.config.training.frozen}


def _counted(engine: TrainingEngine) -> Iterator[tuple[Module, torch.Tensor]]:
    """Module and numbers of what this rank holds, without replicas: of a tied pair one, of what tensor-parallel ranks share the first's."""
    weights = {weight.param: weight for weight in engine.weights}
    for entry in main_weights(engine.optimizer):
        weight = weights[entry.param]
        if weight.saves and (weight.partition_dim is not None or engine.topology.tensor_rank == 0):
            yield weight.module, entry.main
