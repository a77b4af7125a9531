"""Which checkpoint of a run is its best one by a figure of validation, and when a better one is waited for no longer."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.checkpoint.together import from_rank_0
from megatron_mplug2.config.downstream import BestConfig, Better
from megatron_mplug2.errors import UserError


class Best(BaseModel):
    """The best validation so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(gt=0)
    """Steps done when it was made."""
    figure: str
    """By which it is."""
    value: float
    waited: int = Field(default=0, ge=0)
    """Validations since, none of them better."""


class BestSoFar:
    """Sees every validation. The same on all ranks."""

    def __init__(self, settings: BestConfig | None, best: Best | None) -> None:
        """`best`: of the checkpoint that the run goes on from; one by another figure is none."""
        asked = settings is not None and best is not None and best.figure == settings.figure
        self._settings, self.best = settings, best if asked else None

    @property
    def step(self) -> int | None:
        """Steps of the checkpoint that is to stay."""
        return self.best.step if self.best else None

    @property
    def given_up(self) -> bool:
        """Whether `downstream.best.patience` is over."""
        patience = self._settings.patience if self._settings else 0
        return bool(patience and self.best and self.best.waited >= patience)

    def judge(self, steps: int, figures: Mapping[str, float]) -> bool:
        """Whether the weights after `steps` steps are the best so far. Collective over the world.

        Raises UserError where validation has no such figure.
        """
        if self._settings is None:
            return False
        figure = self._settings.figure
        if figure not in figures:
            raise UserError(f"downstream.best.figure={figure} is no figure of this run's validation; there are {', '.join(figures)}")
        value = from_rank_0(figures[figure])  # ranks may round otherwise
        if self.best is None or math.isnan(self.best.value) or self._better(value, self.best.value):
            self.best = Best(step=steps, figure=figure, value=value)
            return True
        self.best = self.best.model_copy(update={"waited": self.best.waited + 1})
        return False

    def _better(self, value: float, other: float) -> bool:
        assert self._settings is not None
        return value < other if self._settings.better is Better.LOWER else value > other
