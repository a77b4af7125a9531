"""Which layouts are compared, which fall out and why."""

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_memory import stage_memory
from megatron_mplug2.planner.layouts import Comparison, compare_layouts, microbatches
from tests.planner.runs import cluster, run

GPUS = 8


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return compare_layouts(run(), cluster(GPUS), 30e9)


def test_every_layout_is_ranked_or_has_its_reason(compared: Comparison) -> None:
    ranked = [(one.config.layout.tensor, one.config.layout.pipeline, one.config.layout.data) for one in compared.options]
    left_out = [(one.tensor, one.pipeline, one.data) for one in compared.left_out]
    # Tensor 1, 2, 4, 8 and pipeline 1 to 8, as far as both divide 8 GPUs.
    assert len({*ranked, *left_out}) == len(ranked) + len(left_out) == 4 + 3 + 2 + 1
    assert all(tensor * pipeline * data == GPUS for tensor, pipeline, data in (*ranked, *left_out))


def test_the_quickest_is_first_and_all_fit(compared: Comparison) -> None:
    rates = [option.samples_per_second for option in compared.options]
    assert rates == sorted(rates, reverse=True)
    for option in compared.options:
        most = max(stage_memory(option.config, make_partition(option.config)), key=lambda rank: rank.total)
        assert most.total <= 30e9 and option.memory.total == pytest.approx(most.total, rel=0.02)


def test_base_has_twelve_heads_and_eight_tensor_ranks_do_not_divide_them(compared: Comparison) -> None:
    reasons = {one.reason for one in compared.left_out if one.tensor == 8}
    assert any("layout.tensor=8 does not divide" in reason for reason in reasons)


def test_what_is_too_large_says_by_how_much() -> None:
    compared = compare_layouts(run(), cluster(GPUS), 2e9)
    assert any(one.reason.startswith("needs at least ") and "largest part: " in one.reason for one in compared.left_out)


def test_more_memory_is_never_slower(compared: Comparison) -> None:
    more = compare_layouts(run(), cluster(GPUS), 180e9)
    assert more.options[0].parts.total <= compared.options[0].parts.total


def test_microbatches_keep_groups_whole_and_divide_a_replicas_samples() -> None:
    assert microbatches(run(), 8) == (16, 32, 64, 128)
    assert microbatches(run("training.global_batch=1536"), 8) == (16, 32, 64)


def test_deepspeed_is_not_compared() -> None:
    overlaps = ("layout.overlap_grad_reduce=false", "layout.overlap_param_gather=false")
    with pytest.raises(UserError, match=r"^training\.engine=deepspeed: .* set training\.engine=megatron$"):
        compare_layouts(run("training.engine=deepspeed", *overlaps), cluster(8), 80e9)
