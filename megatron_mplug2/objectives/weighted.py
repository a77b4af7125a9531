"""Which objectives a run trains: those of some weight. The others cost no work: no texts, no pairs, no pass, no head."""

from collections.abc import Collection

from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.objectives.result import Objective

EVERY = frozenset(Objective)
_OF_TEXT = (Objective.MLM, Objective.LM)
_OF_PAIRS = (Objective.VLC, Objective.VLM, Objective.LM)


def weighted(config: ObjectivesConfig) -> frozenset[Objective]:
    """Those with a weight."""
    return frozenset(objective for objective in Objective if getattr(config, objective.value).weight > 0)


def of_task(objectives: Collection[Objective], task: Task) -> tuple[Objective, ...]:
    """Those that a step of `task` has, in one order everywhere."""
    return tuple(objective for objective in (_OF_TEXT if task is Task.TEXT else _OF_PAIRS) if objective in objectives)


def contrasts(objectives: Collection[Objective], task: Task) -> bool:
    """Whether a step has contrastive features: for VLC, or for the hard negatives of VLM, which are drawn by them."""
    return not {Objective.VLC, Objective.VLM}.isdisjoint(of_task(objectives, task))
