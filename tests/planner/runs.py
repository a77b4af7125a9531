"""Configs of the checkout on GPUs that are not here."""

from collections.abc import Sequence

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.partition import Partition, make_partition
from megatron_mplug2.models.shapes import BatchShape
from megatron_mplug2.models.workload import step_shares
from megatron_mplug2.planner.hardware import GPUS, Cluster
from tests.models.sizes import CONFIGS


def run(*overrides: str) -> RunConfig:
    return load_config(CONFIGS.parent / "pretrain/base.yaml", overrides)


def cluster(gpus: int) -> Cluster:
    return Cluster(gpu=GPUS["H100"], gpus=gpus, node=8)


def shape_of(config: RunConfig, task: Task) -> BatchShape:
    return next(shape for shape in step_shares(config) if shape.task is task)


def planned(overrides: Sequence[str]) -> tuple[RunConfig, Cluster, Partition]:
    config = run(*overrides)
    return config, cluster(config.layout.world_size), make_partition(config)
