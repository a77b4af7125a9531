"""The whole model on a GPU with kernels of our own, against the same with torch's: losses and gradients of every task, in fp32."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import moved
from megatron_mplug2.models import attention, kernels, units
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.parallel.device import backend, device
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.step import backward
from tests.training import cases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder: Path = tmp_path_factory.mktemp("group")
    dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    made = make_engine(cases.config(LayoutConfig()))
    cases.randomise(made.weights, made.topology)
    yield made
    dist.destroy_process_group()


def _losses_and_gradients(engine: Engine, task: Task) -> tuple[dict[Objective, float], dict[str, torch.Tensor]]:
    work = cases.work(engine.config, 0, task, 0, 1)
    told = backward(engine, replace(work, batches=[moved(batch, device()) for batch in work.batches]))
    gradients = {weight.name: weight.param.main_grad.detach().clone() for weight in engine.weights}  # type: ignore[attr-defined]
    return told.read().losses, gradients


@pytest.mark.parametrize("task", Task)
def test_as_with_torchs_kernels(engine: Engine, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels._has_own_kernels(torch.empty(0, device=device())):
        pytest.skip("no Triton, C compiler or Python.h here")
    losses, gradients = _losses_and_gradients(engine, task)
    monkeypatch.setattr(kernels, "_has_own_kernels", lambda x: False)
    # Its backward is our own with either kernel.
    for module in (attention, units):
        monkeypatch.setattr(module, "select_rows", lambda x, index: x.index_select(1, index))
    plain_losses, plain_gradients = _losses_and_gradients(engine, task)
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in plain_gradients.values())
    assert largest > 0
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, plain_gradients[name], rtol=1e-3, atol=1e-5 * largest), name
