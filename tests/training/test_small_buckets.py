"""Communication that overlaps the passes, in many small buckets of which each task uses some: as one process."""

from functools import partial

import pytest
from megatron.core.distributed import DistributedDataParallelConfig

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.training import engine as engine_module
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

OVERLAPPED = LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True)
LAYOUTS = {"dp2": OVERLAPPED, "pp2-dp2": OVERLAPPED.model_copy(update={"pipeline": 2, "stage_starts": (12,)})}
ALL = ("mlm", "vlc", "vlm", "lm")
# Text and pairs after themselves and after each other: what one step leaves ungathered, the next uses or leaves again.
MIXED = (Task.TEXT, Task.TEXT, Task.IMAGE_TEXT, Task.IMAGE_TEXT, Task.TEXT, Task.VIDEO_TEXT)


def run_in_buckets(config: RunConfig, tasks: tuple[Task, ...], size: int) -> Record:
    """`size`: of a bucket, in numbers; one of Megatron-Core's own size would hold this whole model. It splits stage 0 alone."""
    engine_module.DistributedDataParallelConfig = partial(DistributedDataParallelConfig, bucket_size=size)  # type: ignore[attr-defined]
    engine = record.begin(config)
    assert len(engine.ddp.bucket_groups) > 8 or engine.topology.pipeline_rank > 0
    return record.run_whole(engine, tasks)


def check(layout: LayoutConfig, size: int, tasks: tuple[Task, ...], weighted: tuple[str, ...]) -> None:
    alone = cases.only(cases.config(LayoutConfig()), weighted)
    here = cases.only(cases.config(layout, microbatch=cases.GLOBAL_BATCH // (2 * layout.data)), weighted)
    (plain,) = run_ranks(1, reference.run, alone, tasks)
    ranks = run_ranks(layout.world_size, run_in_buckets, here, tasks, size)
    for step, wanted in enumerate(plain.steps):
        compare_step(wanted, ranks, step)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_tasks_equal_one_process(layout: str) -> None:
    check(LAYOUTS[layout], 10_000, MIXED, ALL)


def test_every_weight_in_a_bucket_of_its_own() -> None:
    """A module that ran before its own weights came would run with those of the step before."""
    check(LAYOUTS["dp2"], 1, (Task.VIDEO_TEXT, Task.TEXT, Task.VIDEO_TEXT), ALL)


def test_objectives_that_never_use_the_decoder_equal_one_process() -> None:
    check(LAYOUTS["dp2"], 10_000, (Task.IMAGE_TEXT,) * 3, ("vlc", "vlm"))
