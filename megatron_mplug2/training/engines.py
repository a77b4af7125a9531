"""The engine that a run's config names."""

from megatron_mplug2.config.layout import EngineChoice
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training import engine as megatron
from megatron_mplug2.training.interface import TrainingEngine


def make_engine(config: RunConfig, clock: SectionClock) -> TrainingEngine:
    """By `training.engine`. Collective over the world. Raises UserError where DeepSpeed is asked for and not installed."""
    if config.training.engine is EngineChoice.MEGATRON:
        return megatron.make_engine(config, clock)
    # Here: it takes seconds to import, and need not be installed for the other engine.
    from megatron_mplug2.training.deepspeed.engine import make_engine as make_deepspeed_engine

    return make_deepspeed_engine(config, clock)
