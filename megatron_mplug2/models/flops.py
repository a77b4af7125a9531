from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import chain


def chain_costs(config: RunConfig) -> tuple[float, ...]:  # placeholder until the real one is written
    return (1.0,) * len(chain(config.model))
