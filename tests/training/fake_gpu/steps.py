"""Training steps of every task on a fake GPU."""

from dataclasses import replace
from functools import partial

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import moved
from megatron_mplug2.parallel.device import device
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import train_step
from tests.training import cases
from tests.training.fake_gpu import kernels
from tests.training.fake_gpu.device import fake_gpu, install
from tests.training.test_queue import QUEUE

MICROBATCH = 4
OVERLAPPED = LayoutConfig(zero1=True, overlap_grad_reduce=True, overlap_param_gather=True)
OWN_KERNELS = {
    *("quick_gelu_forward", "quick_gelu_backward", "temporal_forward", "temporal_backward"),
    *("add_norm_forward", "add_norm_backward", "select_rows"),
}


def config(case: str, ranks: int) -> RunConfig:
    """With several microbatches a step."""
    text = cases.MODEL.text.model_copy(update={"dropout": 0.1, "attention_dropout": 0.1})
    dropped = cases.MODEL.model_copy(update={"text": text, "vision": cases.MODEL.vision.model_copy(update={"drop_path": 0.1})})
    in_bf16 = partial(cases.config, microbatch=MICROBATCH, precision=Precision.BF16)
    match case:
        case "fp32":
            return cases.config(LayoutConfig(), microbatch=MICROBATCH)
        case "dropout":
            return in_bf16(LayoutConfig(), model=dropped)
        case "recompute":
            return in_bf16(LayoutConfig(), model=dropped, recompute=tuple(Block))
        case "queue":
            return in_bf16(LayoutConfig(), vlc=QUEUE)
        case "data":
            return in_bf16(OVERLAPPED.model_copy(update={"data": ranks}))
        case "tensor":
            return in_bf16(LayoutConfig(tensor=ranks))
        case "sequence":
            return in_bf16(LayoutConfig(tensor=ranks, sequence_parallel=True))
    raise ValueError(case)


def take_steps(ranks: int, case: str) -> None:
    """As rank 0 of so many. Call it once, in a process of its own."""
    install()
    kernels.install()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    run = config(case, ranks)
    with fake_gpu():
        engine = make_engine(run)
        for step, task in enumerate((*Task, *Task)):
            work = cases.work(run, step, task, 0, run.layout.data)
            work = replace(work, batches=[moved(batch, device()) for batch in work.batches])
            train_step(engine, work, Guard(run, {}), by_module=True)
        strays = [weight.name for weight in engine.weights if not weight.param.is_cuda]
    assert strays == [], strays
    assert kernels.LAUNCHED == OWN_KERNELS, kernels.LAUNCHED
    print("every tensor was where it belongs")
