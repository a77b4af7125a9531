"""Faults that are put into the training of a real run: into its ranks, which are forked from here."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch.distributed as dist

from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.training import step as step_module
from megatron_mplug2.training.engine import Engine
from megatron_mplug2.training.step import StepWork, Told

Fault = Callable[[Engine], None]
"""Done on one rank, after its backward pass and before the update."""


@contextmanager
def fault_at(step: int, rank: int, fault: Fault) -> Iterator[None]:
    """For runs that are started in the block. Blocks within one another add up."""
    before = step_module.backward

    def backward(engine: Engine, work: StepWork) -> Told:
        told = before(engine, work)
        if (work.step, dist.get_rank()) == (step, rank):
            fault(engine)
        return told

    setattr(step_module, "backward", backward)  # noqa: B010
    try:
        yield
    finally:
        setattr(step_module, "backward", before)  # noqa: B010


def put_nan(engine: Engine) -> None:
    """Into the gradient of a norm, which tensor-parallel ranks hold all."""
    weight = next(weight for weight in engine.weights if weight.partition_dim is None and "norm" in weight.name)
    weight.param.main_grad.view(-1)[-1] = math.nan  # type: ignore[attr-defined] # Megatron-Core's


def with_nan_pixel(work: StepWork) -> StepWork:
    """In the last picture or clip of the rank's last microbatch: whatever the forward pass makes of that is no number either."""
    *others, last = work.batches
    assert isinstance(last, PairBatch) and last.media is not None
    media = last.media.clone()
    media.view(-1)[-1] = math.nan
    return replace(work, batches=[*others, replace(last, media=media)])


def hang(engine: Engine) -> None:
    while True:
        time.sleep(1.0)


def stop_the_process(engine: Engine) -> None:
    """With all of its threads, as a debugger or a broken node does."""
    os.kill(os.getpid(), signal.SIGSTOP)


def break_off(engine: Engine) -> None:
    raise ValueError("the rank is broken")
