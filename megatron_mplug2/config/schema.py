"""The typed tree of every configurable number, frozen once built.

The numbers of the method carry their source: [CODE] the released mPLUG-2 code, [M1] the predecessor mPLUG's pretraining
config, [PAPER] arXiv 2302.00402. A number without a tag is this project's own choice.
"""

from pathlib import Path

from pydantic import Field, ValidationInfo, model_validator

from megatron_mplug2.config import checks
from megatron_mplug2.config.data import DataConfig
from megatron_mplug2.config.downstream import DownstreamConfig
from megatron_mplug2.config.layout import DeepSpeedConfig, LayoutConfig
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.optimizer import OptimizerConfig
from megatron_mplug2.config.schedule import PhaseConfig
from megatron_mplug2.config.training import InitialiseConfig, TrainingConfig


class RunConfig(Frozen):
    """Everything a run is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    run_dir: Path
    """Folder of logs, checkpoints and the resolved config."""
    model: ModelConfig
    data: DataConfig
    schedule: tuple[PhaseConfig, ...] = Field(min_length=1)
    training: TrainingConfig
    objectives: ObjectivesConfig = ObjectivesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    layout: LayoutConfig = LayoutConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    downstream: DownstreamConfig | None = None
    """None: pretraining."""
    initialise_from: InitialiseConfig | None = None
    """Read where the run begins, not where it goes on."""

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.schedule)

    @property
    def pictures(self) -> int:
        """Pictures of a sample of the stream of pictures."""
        return 1 if self.downstream is None else self.downstream.family.pictures

    @property
    def microbatches(self) -> int:
        """Microbatches a step on each data-parallel rank."""
        return self.training.global_batch // (self.training.microbatch * self.layout.data)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "RunConfig":
        checks.report(checks.run_errors(self), info.context)
        return self
