"""The whole model with oneDNN's products, which small models are spared, against one process with torch's: losses, gradients, and weights
after four steps. Words' gradients are rows here as in every run on a CPU."""

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models import cpu_functions, kernels
from megatron_mplug2.parallel.device import on_gpu
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import compare_step
from tests.training.record import Record

pytestmark = pytest.mark.skipif(on_gpu() or not torch.backends.mkldnn.is_available(), reason="of CPUs with oneDNN")

TASKS = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT)


def _by_onednn(config: RunConfig, tasks: tuple[Task, ...]) -> Record:
    kernels.ONEDNN_FROM, cpu_functions.MANY = 0, 100  # rows that some of these batches' streams have
    rows_of_gradients: list[int] = []

    def told(rows: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows_of_gradients.append(len(rows))
        return weight_gradient(rows, gradient, weight)

    weight_gradient, cpu_functions._weight_gradient = cpu_functions._weight_gradient, told
    recorded = record.run(config, tasks)
    assert min(rows_of_gradients) < cpu_functions.MANY <= max(rows_of_gradients)
    return recorded


@pytest.mark.parametrize(
    "layout",
    [
        LayoutConfig(),
        LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
        LayoutConfig(pipeline=2, stage_starts=(7,)),
    ],
    ids=["one", "dp2-zero1-overlap", "pp2"],
)
def test_as_with_torchs_products(layout: LayoutConfig) -> None:
    plain = run_ranks(1, reference.run, cases.config(LayoutConfig()), TASKS)[0]
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // (2 * layout.data))
    ranks = run_ranks(layout.world_size, _by_onednn, config, TASKS)
    for step, expected in enumerate(plain.steps):
        compare_step(expected, ranks, step)
