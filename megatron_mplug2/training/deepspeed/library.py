"""DeepSpeed itself: imported so that nothing is compiled, and set up so that it does what the config says."""

import logging
import os
from typing import Any

import torch
import torch.distributed as dist

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from megatron_mplug2.parallel.device import on_gpu
from megatron_mplug2.parallel.topology import Topology

REDUCED_AT_ONCE = 50_000_000
"""Gradients that are reduced together, in elements (DeepSpeed's default is ten times that: 2 GB that are allocated at each pass)."""
KEPT_WHOLE = 10_000
"""At stage 3, elements up to which a weight stays whole on every rank: biases, norms, and the temperature."""


def load_deepspeed() -> Any:
    """The package. Raises UserError where it is not installed."""
    if not on_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would look for others, and warn
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"training.engine=deepspeed: {error}; pip install 'megatron-mplug2[deepspeed]'") from None
    # It would send rank 0's weights to all, and cannot send a scalar (0.19.8), which the temperature is. They are equal, by their names.
    deepspeed.DeepSpeedEngine._broadcast_model = lambda engine: None
    deepspeed.zero.Init._zero_init_param = _partition
    # It would be compiled at every start on a CPU, and fail without a compiler; only inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # What it says, its warnings too, is about its own settings, which nobody sees here, and masks that need no gradient.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _partition(init: Any, param: Any) -> None:
    """A parameter at stage 3, in the place of `zero.Init`'s method."""
    init._convert_to_deepspeed_param(param)
    param.partition()


def settings_of(config: RunConfig) -> dict[str, Any]:
    """DeepSpeed's own config."""
    training = config.training
    return {
        "train_micro_batch_size_per_gpu": training.microbatch,
        "gradient_accumulation_steps": config.microbatches,
        "gradient_clipping": config.optimizer.clip_norm,
        "bf16": {"enabled": training.precision is Precision.BF16},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        # torch's AdamW, which needs no compiler; the same arithmetic as the other engine's.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": config.deepspeed.zero_stage,
            "reduce_bucket_size": REDUCED_AT_ONCE,
            "allgather_bucket_size": REDUCED_AT_ONCE,
            "offload_optimizer": {"device": "cpu" if config.deepspeed.offload_optimizer else "none"},
            # The task changes from step to step, and with it the modules that run: what was fetched ahead would be another task's.
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": KEPT_WHOLE,
        },
    }


class ParallelGroups:
    """The layout's groups under the names that DeepSpeed asks for (its `mpu`); model-parallel is tensor-parallel there."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def get_model_parallel_rank(self) -> int:
        return self._topology.tensor_rank

    def get_model_parallel_world_size(self) -> int:
        return self._topology.tensor_size

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._topology.tensor_group

    def get_data_parallel_rank(self) -> int:
        return self._topology.data_rank

    def get_data_parallel_world_size(self) -> int:
        return self._topology.data_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._topology.data_group


def initialise(module: torch.nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig, topology: Topology) -> Any:
    """DeepSpeed's engine around a module and torch's optimizer of its trained weights. Collective over the world."""
    deepspeed = load_deepspeed()
    os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device()) if on_gpu() else "0")  # as torchrun sets it, and srun does not
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=settings_of(config), mpu=ParallelGroups(topology), dist_init_required=False
    )
    return engine
