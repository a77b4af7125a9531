"""Megatron-Core's AdamW with our groups: vision, temporal modules and the rest, each with and without weight decay."""

from collections.abc import Sequence

import torch
from megatron.core import optimizer as megatron_optimizers
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import OptimizerConfig, ParamKey
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler, ParamGroupOverride

from megatron_mplug2.config.schema import OptimizerConfig as Settings
from megatron_mplug2.config.schema import ParamGroup, Precision, RunConfig
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.device import megatron_runtime
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


def make_optimizer(config: RunConfig, ddp: DistributedDataParallel, weights: Sequence[Weight], topology: Topology) -> MegatronOptimizer:
    """AdamW over the stage's parameters, ZeRO-1 where the layout asks for it."""
    settings = config.optimizer
    for weight in weights:
        setattr(weight.param, _mark(group_of(weight.name), decays(weight, settings)), True)
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
        use_distributed_optimizer=config.layout.zero1,
        overlap_param_gather=config.layout.overlap_param_gather,
        clip_grad=settings.clip_norm,
    )
    # Where Transformer Engine or apex is installed Megatron-Core would take their Adam, whose state has another form: one optimizer, and
    # one form of checkpoint, everywhere.
    megatron_optimizers.USING_PYTORCH_OPTIMIZER = True
    with megatron_runtime():
        return get_megatron_optimizer(core, [ddp], _overrides(settings), use_gloo_process_groups=False, pg_collection=topology.groups)


def clip(optimizer: MegatronOptimizer, limit: float, norm: float) -> None:
    """Scales prepared gradients of norm `norm` down to the limit, as Megatron-Core's own step does before its update."""
    for part in optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]:
        params = part.get_parameters()
        if params:
            clip_grad_by_total_norm_fp32(params, max_norm=limit, total_norm=norm)


def rule_of(weight: Weight, config: RunConfig) -> ParamGroupOverride:
    """Highest and lowest rate, and factor of the weight decay, as `LearningRate` reads them in an optimizer's groups."""
    return _overrides(config.optimizer)[ParamKey(attr=_mark(group_of(weight.name), decays(weight, config.optimizer)))]


def _mark(group: ParamGroup, decayed: bool) -> str:
    return f"in_{group.value}_{'decayed' if decayed else 'undecayed'}"


def _overrides(settings: Settings) -> dict[ParamKey, ParamGroupOverride]:
    overrides = {}
    for group in ParamGroup:
        rule = settings.rule(group)
        for decayed in (True, False):
            overrides[ParamKey(attr=_mark(group, decayed))] = ParamGroupOverride(
                max_lr=settings.lr * rule.lr_scale,
                min_lr=settings.min_lr * rule.lr_scale,
                wd_mult=rule.decay_scale if decayed else 0.0,
            )
    return overrides


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
