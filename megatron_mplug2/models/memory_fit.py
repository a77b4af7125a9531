"""Whether a layout's ranks fit into a device's memory, and what would."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from pydantic import ValidationError

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_memory import RankMemory, stage_memory

GPU_GB = {
    "V100": 32,
    "A100": 80,
    "A100-40GB": 40,
    "H100": 80,
    "H200": 141,
    "B200": 180,
    "L4": 24,
    "L40S": 48,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
}
"""NVIDIA's data sheets, the largest kind where there are several but for A100. What is sold as 80 GB has 80 GiB or nearly: the difference
is about what CUDA's context and libraries take, so these are taken for 10^9 bytes that tensors may fill."""

GB = 1e9
TENSOR_SIZES = (1, 2, 4, 8)
"""Within a node, where tensor parallelism is quick."""
STAGES = (1, 2, 4, 8, 16)
MORE_RANKS = (1, 2, 4, 8, 16, 32, 64)

Changes = dict[str, Any]
"""Overrides: dotted keys and values."""


@dataclass(frozen=True)
class Fit:
    """What would fit."""

    changes: Changes
    ranks: int
    gigabytes: float
    """Of the rank that needs most."""


def known_gpu_gb(name: str) -> float:
    """Memory of a GPU of `GPU_GB`, in any case of letters. Raises UserError for another one."""
    found = GPU_GB.get(name.upper())
    if found is None:
        raise UserError(f"--gpu {name} is not known, those are {', '.join(GPU_GB)}: name one of them, or give --memory-gb")
    return found


def check_memory(config: RunConfig, limit_gb: float, device: str) -> None:
    """Raises UserError, of one line, where a rank needs more than `limit_gb` gigabytes (10^9 bytes). `device`: whose memory that is."""
    stages = stage_memory(config, make_partition(config))
    stage = max(range(len(stages)), key=lambda number: stages[number].total)
    memory = stages[stage]
    if memory.total <= limit_gb * GB:
        return
    layout = config.layout
    part = max(fields(memory), key=lambda field: getattr(memory, field.name)).name
    raise UserError(
        f"rank {stage * layout.tensor * layout.data} (stage {stage} of {layout.pipeline}) needs about {memory.total / GB:.1f} GB "
        f"(largest part: {part}, {getattr(memory, part) / GB:.1f}), and {device} has {limit_gb:g}: {_advice(config, limit_gb)}"
    )


def _advice(config: RunConfig, limit_gb: float) -> str:
    fit = what_fits(config, limit_gb)
    if fit is None:
        return "nothing near this layout would fit, take a smaller model or larger devices"
    ranks = "" if fit.ranks == config.layout.world_size else f" on {fit.ranks} ranks"
    shown = " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in fit.changes.items())
    return f"{shown} would fit{ranks}, with {fit.gigabytes:.1f} GB"


def what_fits(config: RunConfig, limit_gb: float) -> Fit | None:
    """The nearest of other settings whose ranks all fit: recompute, then layouts of as many ranks, smaller microbatches, more ranks."""
    for changes in _candidates(config):
        changed = _changed(config, changes)
        if changed is None:
            continue
        most = most_loaded(changed)
        if most.total <= limit_gb * GB:
            return Fit(changes, changed.layout.world_size, most.total / GB)
    return None


def most_loaded(config: RunConfig) -> RankMemory:
    """Of the rank that needs most."""
    return max(stage_memory(config, make_partition(config)), key=lambda memory: memory.total)


def _candidates(config: RunConfig) -> Iterator[Changes]:
    yield {"training.recompute": "full"}
    now = config.training.microbatch
    for more in MORE_RANKS:
        for microbatch in (now, now // 2, now // 4) if more == 1 else (now, now // 4):
            for layout in _layouts(config, config.layout.world_size * more):
                changes = layout if microbatch == now else {**layout, "training.microbatch": microbatch}
                yield changes
                yield {**changes, "training.recompute": "full"}


def _layouts(config: RunConfig, ranks: int) -> Iterator[Changes]:
    """Of so many ranks, those that share the model out over few first: each way of sharing costs time."""
    shapes = [(tensor, pipeline) for tensor in TENSOR_SIZES for pipeline in STAGES if ranks % (tensor * pipeline) == 0]
    for tensor, pipeline in sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape[1])):
        changes: Changes = {}
        for key, now, then in (
            ("tensor", config.layout.tensor, tensor),
            ("pipeline", config.layout.pipeline, pipeline),
            ("data", config.layout.data, ranks // (tensor * pipeline)),
            ("sequence_parallel", config.layout.sequence_parallel, tensor > 1),
        ):
            if now != then:
                changes[f"layout.{key}"] = then
        if "layout.pipeline" in changes and config.layout.stage_starts is not None:
            changes["layout.stage_starts"] = None
        yield changes


def _changed(config: RunConfig, changes: Changes) -> RunConfig | None:
    """None where it isn't a config that can run."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        section, name = key.split(".")
        tree[section][name] = value
    try:
        return RunConfig.model_validate(tree)
    except ValidationError:
        return None
