"""Megatron-Core's AdamW with our groups: vision, temporal modules and the rest, each with and without weight decay, by blocks' depth."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from megatron.core import optimizer as megatron_optimizers
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from megatron.core.optimizer.optimizer_config import OptimizerConfig, ParamKey
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler, ParamGroupOverride

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.optimizer import OptimizerConfig as Settings
from megatron_mplug2.config.optimizer import ParamGroup
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.device import device, megatron_runtime
from megatron_mplug2.parallel.topology import Topology


def group_of(name: str) -> ParamGroup:
    """By canonical name: local temporal modules, what else the vision encoder has, and the rest."""
    if ".temporal." in name:
        return ParamGroup.TEMPORAL
    return ParamGroup.VISION if name.startswith("vision.") else ParamGroup.REST


def decays(weight: Weight, settings: Settings) -> bool:
    """Whether weight decay applies: to matrices and tables, to norms, biases and other vectors only if asked, never to the temperature."""
    if weight.name == LOG_TEMPERATURE:
        return False
    return settings.decay_norms_and_biases or len(weight.full_size) > 1


def steps_below(name: str, model: ModelConfig) -> int:
    """Blocks from a weight up to the end of its tower, its own counted: by how many powers of `optimizer.layer_decay` its rate is lower.

    The towers are the vision encoder, and the text encoder with its universal layers; an embedding lies below its first block, and what is
    in no tower, or at a tower's end, is lowered by none (BEiT's and ELECTRA's numbering).
    """
    tower, kind, *rest = name.split(".")
    text_layers = model.text.layers - model.text.universal_layers
    if kind == "embedding" and tower in ("vision", "text"):
        return 1 + (model.vision.blocks if tower == "vision" else model.text.layers)
    if kind not in ("blocks", "layers") or tower not in ("vision", "text", "universal"):
        return 0
    index = int(rest[0]) + (text_layers if tower == "universal" else 0)
    return (model.vision.blocks if tower == "vision" else model.text.layers) - index


def make_optimizer(config: RunConfig, ddp: DistributedDataParallel, weights: Sequence[Weight], topology: Topology) -> MegatronOptimizer:
    """AdamW over the stage's parameters, ZeRO-1 where the layout asks for it."""
    settings = config.optimizer
    for weight in weights:
        setattr(weight.param, _place_of(weight, config).mark, True)
    core = OptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=settings.min_lr,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.eps,
        bf16=config.training.precision is Precision.BF16,
        params_dtype=torch.bfloat16 if config.training.precision is Precision.BF16 else torch.float32,
        use_distributed_optimizer=config.layout.shards_optimizer,
        overlap_param_gather=config.layout.overlaps_gathering,
        clip_grad=settings.clip_norm,
    )
    # Where Transformer Engine or apex is installed Megatron-Core would take their Adam, whose state has another form: one optimizer, and
    # one form of checkpoint, everywhere.
    megatron_optimizers.USING_PYTORCH_OPTIMIZER = True
    with megatron_runtime():
        optimizer = get_megatron_optimizer(core, [ddp], _overrides(config), use_gloo_process_groups=False, pg_collection=topology.groups)
    for group in optimizer.param_groups:
        group["foreach"], group["fused"] = False, True  # torch's update in one pass over a weight and its moments
    return optimizer


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Of all prepared gradients of the model. As Megatron-Core's `get_grad_norm`, which takes one parameter after the other."""
    total = 0.0
    for part in _parts(optimizer):
        gradients = part.get_main_grads_for_grad_norm()
        square = torch.stack(torch._foreach_norm(gradients)).square().sum() if gradients else torch.zeros((), device=device())
        dist.all_reduce(square, group=part.get_grad_stats_parallel_group())
        total += square.item()
    return math.sqrt(total)


def clip(optimizer: MegatronOptimizer, limit: float, norm: float) -> None:
    """Scales prepared gradients of norm `norm` down to the limit, as Megatron-Core's own step does before its update, but in place."""
    share = limit / (norm + 1e-6)
    if share >= 1.0:
        return
    for part in _parts(optimizer):
        gradients = [param.grad for param in part.get_parameters() if param.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, share)


def update_weights(optimizer: MegatronOptimizer) -> None:
    """From clipped gradients, as Megatron-Core's `step_with_ready_grads`; but half-precision weights get the values of their fp32 ones in
    one call, where Megatron-Core copies one after the other and a GPU waits for it."""
    for part in _parts(optimizer):
        if not isinstance(part, Float16OptimizerWithFloat16Params) or part.is_stub_optimizer:
            part.step_with_ready_grads()
            continue
        part.optimizer.step()
        model, mains = part._get_model_and_main_params_data_float16()
        if model:
            torch._foreach_copy_(model, mains)


def _parts(optimizer: MegatronOptimizer) -> Sequence[MegatronOptimizer]:
    return optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def rule_of(weight: Weight, config: RunConfig) -> ParamGroupOverride:
    """Highest and lowest rate, and factor of the weight decay, as `LearningRate` reads them in an optimizer's groups."""
    return _rule(_place_of(weight, config), config.optimizer)


@dataclass(frozen=True)
class _Place:
    """What decides a weight's rate and weight decay."""

    group: ParamGroup
    decayed: bool
    steps_below: int

    @property
    def mark(self) -> str:
        """Attribute of a parameter by which Megatron-Core finds its rule."""
        return f"in_{self.group.value}_{'decayed' if self.decayed else 'undecayed'}_{self.steps_below}"


def _place_of(weight: Weight, config: RunConfig) -> _Place:
    return _Place(group_of(weight.name), decays(weight, config.optimizer), steps_below(weight.name, config.model))


def _overrides(config: RunConfig) -> dict[ParamKey, ParamGroupOverride]:
    """Of all places that a weight of any stage may have; Megatron-Core makes one group of those with equal rules."""
    return {ParamKey(attr=place.mark): _rule(place, config.optimizer) for place in _places(config.model)}


def _places(model: ModelConfig) -> Iterator[_Place]:
    deepest = 1 + max(model.vision.blocks, model.text.layers)
    return (_Place(*parts) for parts in product(ParamGroup, (True, False), range(deepest + 1)))


def _rule(place: _Place, settings: Settings) -> ParamGroupOverride:
    rule = settings.rule(place.group)
    scale = rule.lr_scale * settings.layer_decay**place.steps_below
    return ParamGroupOverride(
        max_lr=settings.lr * scale, min_lr=settings.min_lr * scale, wd_mult=rule.decay_scale if place.decayed else 0.0
    )


class LearningRate:
    """Linear warm-up, then cosine to the minimum at the last step; also sets each group's weight decay (Megatron-Core does both here)."""

    def __init__(self, config: RunConfig, optimizer: MegatronOptimizer | torch.optim.Optimizer) -> None:
        settings = config.optimizer
        self._scheduler = OptimizerParamScheduler(
            optimizer,
            init_lr=0.0,
            max_lr=settings.lr,
            min_lr=settings.min_lr,
            lr_warmup_steps=settings.warmup_steps,
            lr_decay_steps=config.steps,
            lr_decay_style="cosine",
            start_wd=settings.weight_decay,
            end_wd=settings.weight_decay,
            wd_incr_steps=config.steps,
            wd_incr_style="constant",
        )

    def set(self, step: int) -> float:
        """Sets every group's rate for a step (counted from 0, whose rate is one part of the warm-up) and returns the unscaled one."""
        self._scheduler.num_steps = 0
        self._scheduler.step(step + 1)
        rate: float = self._scheduler.get_lr({})
        return rate
