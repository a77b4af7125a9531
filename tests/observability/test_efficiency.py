"""Operations of a step, and peaks of devices."""

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.flops import unit_flops
from megatron_mplug2.models.mplug2 import chain
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.observability.efficiency import StepFlops, known_peak
from tests.training import cases


@pytest.mark.parametrize("task", list(Task))
def test_a_step_is_three_forward_passes_of_all_microbatches_but_for_the_pixels_gradient(task: Task) -> None:
    config = cases.config(LayoutConfig(data=2), microbatch=4)
    micro = batch_shape(config, task, samples=4, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    forward = {unit.name: unit_flops(unit, micro, config) for unit in chain(config.model)}
    expected = (3 * sum(forward.values()) - forward["vision.embedding"]) * cases.GLOBAL_BATCH // 4
    assert StepFlops(config).of(task, cases.PHASE) == pytest.approx(expected, rel=1e-2)


def test_peaks() -> None:
    assert known_peak("NVIDIA H100 80GB HBM3", Precision.BF16) == 989
    assert known_peak("NVIDIA H100 PCIe", Precision.BF16) == 756
    assert known_peak("NVIDIA L40S", Precision.BF16) == 362
    assert known_peak("NVIDIA A100-SXM4-80GB", Precision.FP32) == 19.5
    assert known_peak("GeForce", Precision.BF16) is None
