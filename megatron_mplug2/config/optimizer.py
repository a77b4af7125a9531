"""AdamW's numbers, and those of groups of parameters."""

from enum import StrEnum

from pydantic import Field

from megatron_mplug2.config.node import Frozen


class ParamGroup(StrEnum):
    """Groups of parameters with a learning rate and a weight decay of their own (see `training.optimizer`)."""

    VISION = "vision"
    TEMPORAL = "temporal"
    REST = "rest"


class GroupRule(Frozen):
    lr_scale: float = Field(default=1.0, ge=0)
    decay_scale: float = Field(default=1.0, ge=0)


class OptimizerConfig(Frozen):
    lr: float = Field(default=1e-4, gt=0)  # [M1] base
    min_lr: float = Field(default=1e-6, ge=0)  # [M1]
    warmup_steps: int = Field(default=2000, ge=0)  # [M1]
    weight_decay: float = Field(default=0.02, ge=0)  # [M1]
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)  # [CODE] DeepSpeed config
    vision: GroupRule = GroupRule(lr_scale=0.1)  # [M1] 1e-5 against 1e-4
    temporal: GroupRule = GroupRule()
    rest: GroupRule = GroupRule()
    decay_norms_and_biases: bool = False
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the rate from each block of the vision encoder and of the text encoder to the block before it: early blocks move less
    (ELECTRA, Clark et al. 2020, table 7: 0.8 for base, 0.9 for large). 1: all have their group's rate."""

    def rule(self, group: ParamGroup) -> GroupRule:
        rule: GroupRule = getattr(self, group.value)
        return rule
