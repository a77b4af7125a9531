"""Estimated memory against the bytes that live while real ranks train: counted, not resident."""

import pytest

from benchmarks.live_bytes import LiveBytes
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.objectives import Negatives, QueueConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.stage_memory import message_bytes, stage_memory
from megatron_mplug2.models.stage_weights import planned_topology
from megatron_mplug2.parallel.sequence import SequenceShards
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.messages import TETHER, message_at
from megatron_mplug2.training.step import train_step
from tests.models.test_activations import WIDE
from tests.ranks import run_ranks
from tests.training import cases


def _peak(config: RunConfig) -> tuple[int, int]:
    """(stage, most bytes alive at once) of a rank that is made, and trains a step of every task."""
    with LiveBytes() as live:
        engine = make_engine(config)
        place = engine.topology
        for step, task in enumerate(Task):
            train_step(engine, cases.work(config, step, task, place.data_rank, place.data_size), Guard(config, {}))
    return place.pipeline_rank, live.peak


def check(
    layout: LayoutConfig,
    microbatches: int,
    recompute: tuple[Block, ...],
    negatives: Negatives = Negatives.GLOBAL,
    frozen: tuple[Module, ...] = (),
) -> None:
    microbatch = cases.GLOBAL_BATCH // microbatches // layout.data
    vlc = cases.VLC.model_copy(update={"negatives": negatives, "queue": QueueConfig(size=64 * cases.GLOBAL_BATCH)})
    config = cases.config(layout, microbatch=microbatch, model=WIDE, recompute=recompute, vlc=vlc, frozen=frozen)
    estimated = [memory.total for memory in stage_memory(config, make_partition(config))]
    for stage, peak in run_ranks(layout.world_size, _peak, config):
        assert estimated[stage] == pytest.approx(peak, rel=0.05)


def test_a_rank_s_peak_is_as_estimated() -> None:
    check(LayoutConfig(pipeline=2), 4, ())


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "microbatches", "recompute"),
    [
        (LayoutConfig(), 1, ()),
        (LayoutConfig(), 2, tuple(Block)),
        (LayoutConfig(data=2), 2, ()),
        (LayoutConfig(data=2, zero1=False), 2, tuple(Block)),
        (LayoutConfig(tensor=2, pipeline=2, sequence_parallel=True), 4, tuple(Block)),
    ],
    ids=str,
)
def test_a_rank_s_peak_is_as_estimated_everywhere(layout: LayoutConfig, microbatches: int, recompute: tuple[Block, ...]) -> None:
    check(layout, microbatches, recompute)


@pytest.mark.long
def test_a_rank_s_peak_with_momentum_encoders_is_as_estimated() -> None:
    check(LayoutConfig(pipeline=2), 2, (), Negatives.QUEUE)


@pytest.mark.long
def test_a_rank_s_peak_with_frozen_encoders_is_as_estimated() -> None:
    check(LayoutConfig(pipeline=2), 2, (), frozen=(Module.VISION, Module.TEMPORAL, Module.TEXT))


def _kept_by_momentum(config: RunConfig) -> tuple[int, int]:
    """(stage, bytes of averages and queue) of a rank that is made."""
    engine = make_engine(config)
    tensors = []
    if engine.momentum is not None:
        tensors = list(engine.momentum.averages)
        if engine.momentum.queue is not None:
            memory = engine.momentum.queue.memory
            tensors += [memory.vision, memory.text, memory.ids]
    return engine.topology.pipeline_rank, sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_momentum_encoders_and_their_queue_are_counted_to_the_byte() -> None:
    vlc = cases.VLC.model_copy(update={"negatives": Negatives.QUEUE, "queue": QueueConfig(size=4 * cases.GLOBAL_BATCH)})
    config = cases.config(LayoutConfig(tensor=2, pipeline=2), microbatch=4, vlc=vlc, frozen=(Module.TEXT,))
    estimated = [memory.averages for memory in stage_memory(config, make_partition(config))]
    found = run_ranks(config.layout.world_size, _kept_by_momentum, config)
    assert max(estimated) > 0
    assert [estimated[stage] for stage, _ in found] == [kept for _, kept in found]


def test_recompute_costs_nothing_where_no_backward_pass_comes() -> None:
    frozen, layout = tuple(set(Module) - {Module.HEADS}), LayoutConfig(pipeline=2)
    plain, again = (cases.config(layout, microbatch=8, recompute=recompute, frozen=frozen) for recompute in ((), tuple(Block)))
    assert stage_memory(again, make_partition(plain)) == stage_memory(plain, make_partition(plain))


@pytest.mark.parametrize("task", Task)
def test_messages_are_what_the_stages_send(task: Task) -> None:
    """But for the tether, an element."""
    layout = LayoutConfig(tensor=2, pipeline=4, sequence_parallel=True)
    config = cases.config(layout, microbatch=4)
    partition, sequence = make_partition(config), SequenceShards(planned_topology(layout))
    shape = batch_shape(config, task, samples=4, frames=3, resolution=16)
    for stage in range(1, 4):
        cut = partition.cut_before(stage)
        sent = message_at(partition, cut, shape, config, sequence).numel - TETHER
        assert sum(message_bytes(config, partition, cut, shape).values()) == 4 * sent
