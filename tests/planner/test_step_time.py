"""The model of a step's time: what goes into it comes out of it, and its parts by hand."""

import pytest

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.stage_weights import rank_elements, stage_weights
from megatron_mplug2.models.workload import feature_pass, step_shares, training_pass
from megatron_mplug2.observability.efficiency import StepFlops
from megatron_mplug2.planner.collectives import data_group
from megatron_mplug2.planner.hardware import ASSUMED
from megatron_mplug2.planner.stage_times import feature_times, training_times
from megatron_mplug2.planner.step_time import StepModel, mean_parts, step_models, utilisation
from tests.planner.runs import planned, run, shape_of

PIPELINE = ("layout.pipeline=4", "layout.data=2", "training.microbatch=32", "layout.overlap_grad_reduce=true")
APART = ("layout.overlap_grad_reduce=false", "layout.overlap_param_gather=false")


def model(task: Task, *overrides: str) -> StepModel:
    return next(one for one in step_models(*planned(overrides)) if one.shape.task is task)


@pytest.mark.parametrize("overrides", [(), PIPELINE, ("layout.tensor=2", "layout.data=4", "layout.sequence_parallel=true")])
def test_every_operation_takes_its_time_on_some_stage(overrides: tuple[str, ...]) -> None:
    config, cluster, partition = planned(overrides)
    speed = ASSUMED.compute * cluster.gpu.peak[Precision.BF16] * config.layout.tensor
    for shape in step_shares(config):
        times = training_times(config, cluster, partition, shape)
        compute = sum(one.compute for one in (*times.forward, *times.backward))
        assert compute == pytest.approx(sum(training_pass(config, shape)) / speed)
        assert (sum(one.tensor for one in times.forward) > 0) == (config.layout.tensor > 1)


@pytest.mark.parametrize("overrides", [(), PIPELINE])
def test_the_feature_pass_ends_at_the_contrastive_head(overrides: tuple[str, ...]) -> None:
    config, cluster, partition = planned(overrides)
    shape = shape_of(config, Task.IMAGE_TEXT)
    times = feature_times(config, cluster, partition, shape)
    assert len(times.forward) == partition.roles.features + 1
    speed = ASSUMED.compute * cluster.gpu.peak[Precision.BF16]
    assert sum(one.compute for one in times.forward) == pytest.approx(sum(feature_pass(config, shape)) / speed)


@pytest.mark.parametrize("overrides", [(), PIPELINE, (*PIPELINE, *APART)])
def test_the_parts_add_up_to_the_timeline(overrides: tuple[str, ...]) -> None:
    for one in step_models(*planned(overrides)):
        assert one.parts.total == pytest.approx(one.timeline.duration)
        assert one.timeline.events[-1].end <= one.timeline.duration


def test_operations_are_those_of_mfu() -> None:
    config, cluster, partition = planned(PIPELINE)
    counted = StepFlops(config)
    for one in step_models(config, cluster, partition):
        phase = config.schedule[-1]
        assert one.flops == pytest.approx(counted.of(one.shape.task, phase), rel=1e-4)  # masked tokens are rounded for each microbatch


def test_without_recompute_and_messages_mfu_is_the_assumed_share() -> None:
    """Text has no feature pass: all that is lost is the time of gradient buffers and the optimizer."""
    one = model(Task.TEXT, "layout.data=1", "training.microbatch=1024", "training.recompute=none", *APART)
    assert one.flops / (one.parts.compute * 989e12) == pytest.approx(ASSUMED.compute)
    assert one.parts.gradients == one.parts.weights == one.parts.features == one.parts.tensor == 0
    assert one.parts.waiting == pytest.approx(0, abs=1e-12)
    assert one.parts.optimizer > 0


def test_a_step_without_a_feature_pass_gathers_its_features_all_the_same() -> None:
    """Of both modalities, 256 numbers in fp32 a sample, over 8 ranks on a node."""
    config, cluster, partition = planned(("training.microbatch=128",))
    parts = {one.shape.task: one.parts for one in step_models(config, cluster, partition)}
    assert parts[Task.IMAGE_TEXT].features == pytest.approx(data_group(config.layout, cluster).all_gather(1024 * 2 * 256 * 4))
    assert parts[Task.TEXT].features == 0


def test_stages_wait_and_one_stage_does_not() -> None:
    assert model(Task.IMAGE_TEXT, *PIPELINE).parts.waiting > 0.05 * model(Task.IMAGE_TEXT, *PIPELINE).parts.total
    assert model(Task.IMAGE_TEXT).parts.waiting == pytest.approx(0, abs=1e-9)


def test_the_end_of_a_step_by_hand() -> None:
    config, cluster, partition = planned(APART)
    elements = sum(rank_elements(weight, 1) for weight in stage_weights(config.model, partition, 0))
    parts = step_models(config, cluster, partition)[0].parts
    group = data_group(config.layout, cluster)
    assert parts.gradients == pytest.approx(group.reduce_scatter(4 * elements))
    assert parts.weights == pytest.approx(group.all_gather(2 * elements))
    # In fp32: all gradients set to zero and looked at; an eighth read twice and written once to be clipped, and Adam's four reads and three
    # writes, with the weights in bf16.
    assert parts.optimizer == pytest.approx((8 + (12 + 30) / 8) * elements / (ASSUMED.memory * 3.35e12))


def test_each_microbatch_s_gradients_are_added_to_the_sums() -> None:
    """Of what its task trains: two bytes read, and fp32 read and written. Text leaves the vision encoder and the fusion alone."""
    config, cluster, partition = planned(("layout.data=1", "training.microbatch=128"))
    elements = sum(rank_elements(weight, 1) for weight in stage_weights(config.model, partition, 0))
    parts = {one.shape.task: one.parts for one in step_models(config, cluster, partition)}
    whole = config.microbatches * 10 * elements / (ASSUMED.memory * 3.35e12)
    assert parts[Task.IMAGE_TEXT].buffers == pytest.approx(whole, rel=0.02)  # it leaves the heads of MLM alone
    assert parts[Task.TEXT].buffers < 0.8 * whole


def test_a_backward_pass_hides_the_reduction() -> None:
    assert model(Task.IMAGE_TEXT).parts.gradients == 0 < model(Task.IMAGE_TEXT, *APART).parts.gradients


def test_the_run_is_the_mean_of_its_steps() -> None:
    config, cluster, partition = planned(())
    models = step_models(config, cluster, partition)
    assert mean_parts(models).total == pytest.approx(sum(one.share * one.timeline.duration for one in models))
    # Recompute alone costs a quarter: a forward pass of four.
    assert 0.5 * ASSUMED.compute < utilisation(models, config, cluster) < 0.75 * ASSUMED.compute


def test_a_frozen_model_makes_no_backward_pass_in_front_of_what_is_trained() -> None:
    assert run("training.frozen=[vision]").training.frozen
    whole, frozen = (model(Task.IMAGE_TEXT, *more) for more in ((), ("training.frozen=[vision, temporal, text]",)))
    assert frozen.parts.compute < 0.75 * whole.parts.compute and frozen.parts.optimizer < whole.parts.optimizer
