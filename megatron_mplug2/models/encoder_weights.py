"""Which weights make the contrastive features: those that momentum encoders average, and whose averages take memory."""

from collections.abc import Sequence

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.mplug2 import CONTRAST
from megatron_mplug2.models.partition import Partition
from megatron_mplug2.models.weights import Weight


def encoder_weights(weights: Sequence[Weight], partition: Partition) -> list[Weight]:
    """Those among a stage's weights that contrastive features are made with: of all units that a pair passes through, the head included.

    Not the temperature, which the loss uses as it is, and not a tied copy, which belongs to another head.
    """
    names = [unit.name for unit in partition.units]
    units = [unit for unit in partition.units[: names.index(CONTRAST) + 1] if not unit.flow(Task.IMAGE_TEXT).idle]
    inside = tuple(f"{unit.name}." for unit in units)
    return [weight for weight in weights if weight.saves and weight.name != LOG_TEMPERATURE and weight.name.startswith(inside)]
