"""What a checkpoint keeps of a run's health, so that a resume judges as the run would have."""

from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.training.best import Best
from megatron_mplug2.training.guard import Recent


class LeftOut(BaseModel):
    """Steps without an update in the weights: skipped, or rolled back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    reason: str


class HealthState(BaseModel):
    """JSON through `model_dump(mode="json")` and `model_validate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recent: Recent = Field(default_factory=dict)
    bad_in_a_row: int = Field(default=0, ge=0)
    left_out: tuple[LeftOut, ...] = ()
    productive_s: float = Field(default=0.0, ge=0)
    """Wall time of the steps that made the weights, waits for data included; no start, validation, save, or step that was lost."""
    best: Best | None = None
    """None before the first validation, and where the run does not look for its best checkpoint."""

    @property
    def steps_left_out(self) -> int:
        return sum(entry.last + 1 - entry.first for entry in self.left_out)
