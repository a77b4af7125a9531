"""The state of a run beside its tensors."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class RunState(BaseModel):
    """What a resume needs beside weights and optimizer state; the same for every layout, and the same on every rank.

    There is no random state and no learning-rate state: every draw is keyed by (seed, step, sample or module), and the learning
    rate is a function of the step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    step: int = Field(ge=0)
    """Optimizer steps done."""
    config: str
    """The resolved configuration of the run, as YAML (`config.load.resolved_yaml`, back with `config.load.parse_resolved`)."""
    data: dict[str, JsonValue]
    """Position in the data, recorded substitutions, fingerprint of the dataset."""
    health: dict[str, JsonValue] = Field(default_factory=dict)
    """What decides about bad steps, the steps that were left out, and the time spent (`training.health_state`)."""
    best_step: int | None = Field(default=None, ge=0)
    """Steps of the run's best checkpoint so far, which stays; None where the run does not look for one (`downstream.best`)."""

    @property
    def of_run(self) -> bool:
        """Whether a run wrote it, not a conversion, which has a model and no more."""
        return self.data.get("steps") is not None
