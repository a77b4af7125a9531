"""What the steps of a schedule ask of the units."""

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.objectives import Negatives
from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import chain
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.models.stage_cuts import balanced_starts, quickest_starts, step_time
from megatron_mplug2.models.workload import feature_pass, feature_passes, passes, step_shares, training_pass
from tests.models.sizes import model_of
from tests.training import cases

NAMES = [unit.name for unit in chain(cases.MODEL)]


def config(*phases: PhaseConfig, layout: LayoutConfig | None = None, recompute: tuple[Block, ...] = ()) -> RunConfig:
    made = cases.config(layout or LayoutConfig(), recompute=recompute)
    return made.model_copy(update={"schedule": phases or (cases.PHASE,)})


def by_name(costs: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(NAMES, costs, strict=True))


def test_shares_are_of_all_steps_of_the_schedule() -> None:
    pictures = PhaseConfig(steps=30, text=1, image_text=2, resolution=16)
    clips = PhaseConfig(steps=10, text=1, image_text=1, video_text=2, frames=3, resolution=16)
    shares = step_shares(config(pictures, clips))
    assert [(shape.task, shape.frames) for shape in shares] == [(Task.TEXT, 1), (Task.IMAGE_TEXT, 1), (Task.VIDEO_TEXT, 3)]
    assert list(shares.values()) == pytest.approx([12.5 / 40, 22.5 / 40, 5 / 40])
    larger = pictures.model_copy(update={"resolution": 32})
    kinds = [(shape.task, shape.patches) for shape in step_shares(config(pictures, larger))]
    assert kinds == [(Task.TEXT, 0), (Task.IMAGE_TEXT, 4), (Task.IMAGE_TEXT, 16)]


@pytest.mark.parametrize("task", Task)
def test_a_recompute_is_one_forward_pass_more_but_for_heads(task: Task) -> None:
    shape = batch_shape(config(), task, samples=16, frames=3, resolution=16)
    flops = by_name(tuple(unit_flops(unit, shape, config()) for unit in chain(cases.MODEL)))
    kept, again = (by_name(training_pass(config(recompute=kind), shape)) for kind in ((), tuple(Block)))
    for name in NAMES:
        passes = 2 if name == "vision.embedding" else 3  # pixels have no gradient
        assert kept[name] == passes * flops[name]
        assert again[name] == (passes + (not name.startswith("heads."))) * flops[name]
    idle = {name for name in NAMES if not flops[name]}
    assert ("vision.blocks.0" in idle and "heads.matching" in idle) == (task is Task.TEXT)


def test_what_is_frozen_goes_backward_only_behind_a_trained_weight() -> None:
    def passes_a_unit(*frozen: Module) -> dict[str, float]:
        made = cases.config(LayoutConfig(), recompute=(Block.VISION,), frozen=frozen)
        shape = batch_shape(made, Task.VIDEO_TEXT, samples=16, frames=3, resolution=16)
        flops = by_name(tuple(unit_flops(unit, shape, made) for unit in chain(cases.MODEL)))
        costs = by_name(training_pass(made, shape))
        return {name: costs[name] / flops[name] for name in NAMES if flops[name]}

    trained = passes_a_unit()
    assert (trained["vision.blocks.1"], trained["decoder.layers.0"]) == (4, 3)
    vision = passes_a_unit(Module.VISION, Module.TEMPORAL)
    assert (vision["vision.embedding"], vision["vision.blocks.1"]) == (1, 1)  # nothing is recomputed for a backward that is not there
    assert (vision["text.layers.0"], vision["universal.layers.0"], vision["decoder.layers.0"]) == (3, 3, 3)
    blocks = passes_a_unit(Module.VISION)  # their temporal modules are trained
    assert (blocks["vision.embedding"], blocks["vision.blocks.0"], blocks["vision.blocks.1"]) == (1, 3, 4)
    decoder = passes_a_unit(Module.DECODER)
    assert (decoder["decoder.layers.0"], decoder["fusion.layers.0"], decoder["heads.lm"]) == (2, 3, 3)


def test_the_feature_pass_ends_at_the_contrastive_head() -> None:
    shape = batch_shape(config(), Task.IMAGE_TEXT, samples=16, frames=1, resolution=16)
    costs = by_name(feature_pass(config(), shape))
    assert 0 < costs["heads.contrast"] < costs["vision.blocks.0"]
    assert not any(costs[name] for name in ("fusion.layers.0", "decoder.layers.0", "heads.lm"))


def test_passes_without_gradients() -> None:
    """One microbatch on one stage needs none; a second one, or a second stage, does; the queue has its own, whose features come first."""
    alone, stages = config(), config(layout=LayoutConfig(pipeline=2))
    several = cases.config(LayoutConfig(), microbatch=8)
    assert [feature_passes(one, Task.VIDEO_TEXT) for one in (alone, several, stages)] == [0, 1, 1]
    vlc = cases.VLC.model_copy(update={"negatives": Negatives.QUEUE})
    queued = [one.model_copy(update={"objectives": one.objectives.model_copy(update={"vlc": vlc})}) for one in (alone, several, stages)]
    assert [feature_passes(one, Task.VIDEO_TEXT) for one in queued] == [1, 1, 2]
    assert all(feature_passes(one, Task.TEXT) == 0 for one in (alone, several, stages, *queued))
    assert [round(one.weight, 3) for one in passes(stages)] == [0.333] * 5
    assert len(passes(alone)) == 3


def base(layout: LayoutConfig) -> RunConfig:
    phases = (
        PhaseConfig(steps=150_000, text=0.1, image_text=0.9),
        PhaseConfig(steps=40_000, text=0.1, image_text=0.4, video_text=0.5, frames=8),
    )
    return config(*phases, layout=layout).model_copy(update={"model": model_of("base")})


@pytest.mark.parametrize("stages", [4, 8])
def test_base_is_cut_for_its_tasks_and_not_for_their_mean(stages: int) -> None:
    made = base(LayoutConfig(pipeline=stages))
    work = passes(made)
    mean = balanced_starts([sum(one.weight * one.costs[unit] for one in work) for unit in range(len(work[0].costs))], stages)
    assert make_partition(made).starts == quickest_starts(work, stages) != mean
    assert step_time(work, make_partition(made).starts) < step_time(work, mean)


def test_starts_of_the_config_come_before_any_cost() -> None:
    assert make_partition(base(LayoutConfig(pipeline=3, stage_starts=(5, 6)))).starts == (0, 5, 6)
    assert make_partition(base(LayoutConfig())).starts == (0,)
