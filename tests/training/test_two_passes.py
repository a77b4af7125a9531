"""VLC's gradient is computed from the features of a first pass: where the pass that goes backward has others, all ranks end the run; not
where its kernels round otherwise."""

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.training import Precision
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import train_step
from tests.ranks import run_ranks
from tests.training import cases, record


def told(change: float, precision: Precision) -> str:
    """What ends an image-text step whose text embedding, on the first of two stages, grows by a share of itself in every call."""
    config = cases.config(LayoutConfig(pipeline=2, stage_starts=(9,)), microbatch=8, precision=precision)
    engine, calls = record.begin(config), list[int]()

    def never_the_same(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return output * (1 + change * len(calls))

    if engine.topology.pipeline_rank == 0:
        engine.stage.block("text.embedding").register_forward_hook(never_the_same)
    try:
        train_step(engine, cases.work(config, 0, Task.IMAGE_TEXT, 0, 1), Guard(config, {}))
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("precision", "change"), [(Precision.FP32, 0.1), (Precision.BF16, 0.3)])
def test_every_stage_learns_of_a_pass_that_is_no_pure_function(precision: Precision, change: float) -> None:
    for found in run_ranks(2, told, change, precision):
        assert found.startswith("the two passes of VLC gave different features")


@pytest.mark.parametrize(("precision", "change"), [(Precision.FP32, 1e-6), (Precision.BF16, 4e-3)])
def test_rounding_ends_nothing(precision: Precision, change: float) -> None:
    assert run_ranks(2, told, change, precision) == ["", ""]
