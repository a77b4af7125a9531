"""The bytes that a rank sends, against what real steps hand to gloo: sizes of every exchange, and of every message of a stage."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch.distributed as dist
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.tensor_parallel import layers, mappings

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.workload import step_shares
from megatron_mplug2.planner.traffic import Traffic, busiest_traffic, stage_traffic
from megatron_mplug2.training import step as step_module
from megatron_mplug2.training.engine import make_engine
from tests.ranks import run_ranks
from tests.training import cases

EXCHANGES = (
    (dist, "all_reduce", 0, 2),
    (dist, "all_gather_into_tensor", 0, 1),
    *((module, "dist_all_gather_func", 0, 1) for module in (layers, mappings, param_and_grad_buffer)),
    *((module, "dist_reduce_scatter_func", 1, 1) for module in (layers, mappings, param_and_grad_buffer)),
)
"""Where it is called by which name, its argument of full size, and how often a ring turns for it."""
LARGEST_REST = 0.02
"""Share of a step's bytes that the model leaves out at most in these small cases: counts, ids, norms."""
SEQUENCE_REST = 0.04
"""With sequence parallelism: gradients of norms and biases too, which are as wide as 48 tokens of a microbatch here."""


@dataclass
class Sent:
    """Bytes of this rank: what it would send in rings, and what it sends its neighbours."""

    rings: float = 0.0
    messages: float = 0.0


def watch() -> Sent:
    """From now on."""
    sent = Sent()
    for module, name, whole, turns in EXCHANGES:
        setattr(module, name, _counted(getattr(module, name), sent, whole, turns))
    communicate = P2PCommunicator._communicate

    def told(self: P2PCommunicator, **arguments: Any) -> object:
        messages = (arguments[side] for side in ("tensor_send_next", "tensor_send_prev"))
        sent.messages += sum(one.numel() * one.element_size() for one in messages if one is not None)
        return communicate(self, **arguments)

    P2PCommunicator._communicate = told
    return sent


def _counted(exchange: Any, sent: Sent, whole: int, turns: int) -> Any:
    """`whole`: which argument has the size that all ranks hold together."""

    def call(*tensors: Any, **named: Any) -> Any:
        ranks, size = dist.get_world_size(named.get("group")), tensors[whole].numel() * tensors[whole].element_size()
        sent.rings += turns * (ranks - 1) / ranks * size
        return exchange(*tensors, **named)

    return call


def train(config: RunConfig, task: Task) -> tuple[Sent, int]:
    """What this rank sent in one step, and its stage."""
    engine = make_engine(config)
    sent = watch()
    topology = engine.topology
    told = step_module.backward(engine, cases.work(config, 0, task, topology.data_rank, topology.data_size))
    told.read()
    engine.update(0)
    return sent, engine.topology.pipeline_rank


def planned(config: RunConfig, task: Task, stage: int) -> Traffic:
    shape = batch_shape(config, task, samples=config.training.microbatch, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    return stage_traffic(config, make_partition(config), shape, stage)


HALF = cases.GLOBAL_BATCH // 2
CASES = {
    "tensor": (LayoutConfig(tensor=2), cases.GLOBAL_BATCH, ()),
    "sequence": (LayoutConfig(tensor=2, sequence_parallel=True), cases.GLOBAL_BATCH, ()),
    "microbatches": (LayoutConfig(tensor=2), HALF, ()),
    "recompute": (LayoutConfig(tensor=2), cases.GLOBAL_BATCH, tuple(Block)),
    "pipeline": (LayoutConfig(pipeline=2), HALF, ()),
    "data": (LayoutConfig(data=2, zero1=False), HALF, ()),
    "zero1": (LayoutConfig(data=2), HALF, ()),
}
TIED = LayoutConfig(pipeline=2, stage_starts=(7,))
"""Cut between the text's embedding and the head of MLM."""


@pytest.mark.parametrize("task", [Task.TEXT, Task.VIDEO_TEXT])
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_a_real_step_sends(name: str, task: Task) -> None:
    layout, microbatch, recompute = CASES[name]
    config = cases.config(layout, microbatch=microbatch, recompute=recompute)
    for sent, stage in run_ranks(2, train, config, task):
        expected = planned(config, task, stage)
        assert sent.messages == pytest.approx(expected.pipeline if layout.pipeline > 1 else 0.0, rel=LARGEST_REST)
        assert sent.messages + sent.rings == pytest.approx(expected.total, rel=SEQUENCE_REST if layout.sequence_parallel else LARGEST_REST)


@pytest.mark.parametrize("frozen", [(), (Module.TEXT,)])
def test_tied_embeddings_on_two_stages_are_counted(frozen: tuple[Module, ...]) -> None:
    config = cases.config(TIED, microbatch=HALF, frozen=frozen)
    table = 4 * 1024 * cases.MODEL.text.hidden
    for sent, stage in run_ranks(2, train, config, Task.TEXT):
        expected = planned(config, Task.TEXT, stage)
        assert sent.messages + sent.rings == pytest.approx(expected.total, rel=LARGEST_REST, abs=64)
        assert (expected.pipeline > table) == (not frozen)


def test_the_busiest_stage_stands_for_the_run() -> None:
    """In the mean over its kinds of steps."""
    config = cases.config(LayoutConfig(tensor=2, pipeline=2, data=2), microbatch=HALF // 2)
    partition, found = (
        make_partition(config),
        busiest_traffic(cases.config(LayoutConfig(), microbatch=HALF), make_partition(cases.config(LayoutConfig()))),
    )
    assert found.total == 0, "one rank sends nothing"
    stages = [
        sum(stage_traffic(config, partition, shape, stage).total * share for shape, share in step_shares(config).items())
        for stage in (0, 1)
    ]
    assert busiest_traffic(config, partition).total == pytest.approx(max(stages))
    parts = busiest_traffic(config, partition)
    assert min(parts.tensor, parts.pipeline, parts.data) > 0
