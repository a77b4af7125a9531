"""Profiles agree with what other commands know of the same GPUs."""

import pytest

from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.memory_fit import GPU_GB
from megatron_mplug2.observability.efficiency import PEAKS
from megatron_mplug2.planner.hardware import GB, GPUS, Cluster, known_gpu


@pytest.mark.parametrize("name", GPUS)
def test_peak_and_memory_are_those_of_mfu_and_of_plan(name: str) -> None:
    gpu = GPUS[name]
    assert gpu.memory == GPU_GB[name] * GB
    assert (gpu.peak[Precision.BF16] / 1e12, gpu.peak[Precision.FP32] / 1e12) == PEAKS[name]


def test_a_gpu_is_found_in_any_case_of_letters() -> None:
    assert known_gpu("h200") is GPUS["H200"]


def test_an_unknown_gpu_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"^--gpu A10 has no profile .* A100, H100, H200, B200: name one of them, or a file of `mplug2 bench`$"
    ):
        known_gpu("A10")


def test_the_last_node_may_be_part_of_one() -> None:
    assert [Cluster(gpu=GPUS["H100"], gpus=gpus, node=8).nodes for gpus in (1, 8, 9, 512)] == [1, 1, 2, 64]
