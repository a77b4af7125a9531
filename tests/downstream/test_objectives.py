"""Objectives without a weight: a step does none of their work, and comes to what a step comes to that does it and weighs it with nothing.

On every kind of layout, against the plain reference, which computes all objectives.
"""

from dataclasses import dataclass, field
from functools import cache

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import Stage
from megatron_mplug2.training import engine as engine_module
from megatron_mplug2.training import passes
from megatron_mplug2.training import step as step_module
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

TASKS = (Task.VIDEO_TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT)
ANSWERS, RETRIEVAL, CONTRAST = ("lm",), ("vlc", "vlm"), ("vlc",)
# The chain of the case is described in tests/training/test_equivalence.py.
LAYOUTS = {
    "one": LayoutConfig(),
    "tp2-sp": LayoutConfig(tensor=2, sequence_parallel=True),
    "dp2-zero1-overlap": LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
    "pp2-in-fusion": LayoutConfig(pipeline=2, stage_starts=(12,)),
    "pp2-in-decoder": LayoutConfig(pipeline=2, stage_starts=(15,)),
    "pp4-both-ties": LayoutConfig(pipeline=4, stage_starts=(6, 9, 15), zero1=False),
}
SHORT = [
    ("tp2-sp", ANSWERS),
    ("dp2-zero1-overlap", ANSWERS),
    ("pp2-in-fusion", ANSWERS),
    ("dp2-zero1-overlap", RETRIEVAL),
    ("pp2-in-decoder", RETRIEVAL),  # the last stage has nothing to do
]
LONG = [(layout, weighted) for layout in LAYOUTS for weighted in (ANSWERS, RETRIEVAL, CONTRAST) if (layout, weighted) not in SHORT]


def config_of(weighted: tuple[str, ...], layout: LayoutConfig, microbatches: int = 2) -> RunConfig:
    """At a lower rate for VLC alone, which at the case's own is at a plateau after two steps: its gradient has little beyond rounding."""
    config = cases.only(cases.config(layout, microbatch=cases.GLOBAL_BATCH // (microbatches * layout.data)), weighted)
    rate = {"lr": 1e-3, "min_lr": 1e-4} if weighted == CONTRAST else {}
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update=rate)})


@cache
def expected(weighted: tuple[str, ...]) -> Record:
    """The reference draws negatives within a microbatch, whose groups every layout keeps."""
    return run_ranks(1, reference.run, config_of(weighted, LayoutConfig(), 1), TASKS)[0]


def check(layout: str, weighted: tuple[str, ...]) -> None:
    ranks = run_ranks(LAYOUTS[layout].world_size, record.run, config_of(weighted, LAYOUTS[layout]), TASKS)
    for step, plain in enumerate(expected(weighted).steps):
        assert plain.losses.keys() == set(weighted)
        if "vlm" not in weighted:
            plain.negatives = None  # no layout draws them
        compare_step(plain, ranks, step)


@pytest.mark.parametrize(("layout", "weighted"), SHORT)
def test_layouts_equal_one_process_that_weighs_with_nothing(layout: str, weighted: tuple[str, ...]) -> None:
    check(layout, weighted)


@pytest.mark.long
@pytest.mark.parametrize(("layout", "weighted"), LONG)
def test_layouts_equal_one_process_that_weighs_with_nothing_everywhere(layout: str, weighted: tuple[str, ...]) -> None:
    check(layout, weighted)


@dataclass
class Work:
    """Of a step, by what its modules were called with."""

    rows: dict[str, int] = field(default_factory=dict)
    """Unit -> rows of what went in, of all calls."""
    feature_passes: int = 0


def work_of(config: RunConfig) -> Work:
    """Of a training step of clips on one rank."""
    engine, done = record.begin(config), Work()
    ran = Stage._run

    def counting(stage: Stage, unit, streams, micro):  # type: ignore[no-untyped-def]
        written = ran(stage, unit, streams, micro)
        read = unit.flow(micro.task).reads or tuple(written)
        done.rows[unit.name] = done.rows.get(unit.name, 0) + sum((streams | written)[stream].shape[1] for stream in read[:1])
        return written

    def feature_pass(*arguments, **options):  # type: ignore[no-untyped-def]
        done.feature_passes += 1
        return passes.run_features(*arguments, **options)

    Stage._run = counting  # type: ignore[method-assign, assignment]
    engine_module.run_features = feature_pass  # type: ignore[attr-defined]
    step_module.backward(engine, cases.work(config, 0, Task.VIDEO_TEXT, 0, 1))
    return done


def test_a_step_of_answers_does_the_work_of_answers_alone() -> None:
    """Rows of b samples with k instructions: kb of them are read and fused, of 4b + kb and 3b + kb with all objectives."""
    batch, asked = cases.GLOBAL_BATCH, cases.GLOBAL_BATCH * cases.INSTRUCTIONS
    (everything,) = run_ranks(1, work_of, config_of(("vlc", "vlm", "lm"), LayoutConfig()))
    (answers,) = run_ranks(1, work_of, config_of(ANSWERS, LayoutConfig()))
    (retrieval,) = run_ranks(1, work_of, config_of(RETRIEVAL, LayoutConfig()))
    assert (everything.feature_passes, answers.feature_passes, retrieval.feature_passes) == (1, 0, 1)
    assert everything.rows.keys() - answers.rows.keys() == {"heads.contrast"}
    assert {name.split(".")[0] for name in everything.rows.keys() - retrieval.rows.keys()} == {"decoder", "heads"}
    # Both passes of the whole step read text; a matching head that has no pairs hands its instructions on.
    assert [work.rows["text.layers.0"] for work in (everything, answers, retrieval)] == [2 * (batch + asked), asked, 2 * batch]
    assert [work.rows["fusion.layers.1"] for work in (everything, answers, retrieval)] == [3 * batch + asked, asked, 3 * batch]
    assert "heads.lm" not in retrieval.rows and answers.rows["decoder.layers.0"] == asked
