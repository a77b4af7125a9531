"""A step's passes through Megatron-Core's schedules: the features of VLC first, then forward and backward, or forward alone."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.pipeline_parallel.schedules import (
    forward_backward_no_pipelining,
    forward_backward_pipelining_without_interleaving,
)

from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.parallel.device import megatron_runtime
from megatron_mplug2.training.communication import CutCommunicator

if TYPE_CHECKING:
    from megatron_mplug2.training.engine import Engine

LossFunction = Callable[[torch.Tensor], tuple[torch.Tensor, int, torch.Tensor]]


def run_features(engine: "Engine", micros: Sequence[Microbatch]) -> list[torch.Tensor]:
    """Forward without gradients up to the contrastive head; [2, b, d] of each microbatch on the stage that has it, [] elsewhere.

    Not to be called on stages after it.
    """
    topology, owner = engine.topology, engine.partition.roles.features
    assert topology.pipeline_rank <= owner
    group = topology.features_group if owner > 0 else None
    with torch.no_grad():
        return _run(engine, micros, group, forward_only=True)


def run_microbatches(engine: "Engine", micros: Sequence[Microbatch], *, forward_only: bool) -> None:
    """Forward and backward of all microbatches (1F1B); leaves complete gradients in the parameters' `main_grad`."""
    group = engine.topology.groups.pp if engine.topology.pipeline_size > 1 else None
    with torch.set_grad_enabled(not forward_only):
        _run(engine, micros, group, forward_only=forward_only)


def _run(
    engine: "Engine", micros: Sequence[Microbatch], pipeline: torch.distributed.ProcessGroup | None, *, forward_only: bool
) -> list[torch.Tensor]:
    arguments: dict[str, Any] = {
        "forward_step_func": _forward_step,
        "data_iterator": iter(micros),
        "model": engine.ddp,
        "num_microbatches": len(micros),
        "seq_length": 1,  # shapes come from the messages
        "micro_batch_size": 1,
        "forward_only": forward_only,
        "pg_collection": engine.topology.groups,
    }
    with megatron_runtime():
        if pipeline is None:
            return forward_backward_no_pipelining(**arguments)
        boundaries = engine.pipeline_stage.boundaries(micros[0].shape)
        shapes = [(boundaries.received.numel,)], [(boundaries.sent.numel,)]
        groups = copy(engine.topology.groups)
        groups.pp = pipeline
        return forward_backward_pipelining_without_interleaving(
            **{**arguments, "pg_collection": groups},
            adjust_tensor_shapes_fn=lambda received, sent: shapes,
            p2p_communicator=CutCommunicator(pipeline, engine.pipeline_stage.config, boundaries),
        )


def _forward_step(micros: Iterator[Microbatch], model: DistributedDataParallel) -> tuple[torch.Tensor, LossFunction]:
    # Three values and no count of tokens: the schedule takes the loss as it is, and sums.
    return model(next(micros)), lambda output: (output, 0, output.detach())
