"""What follows a bad step, by `training.on_bad_step`; which steps were left out is part of the run's state."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import OnBadStep
from megatron_mplug2.errors import UserError
from megatron_mplug2.training.checkpoints import Saver, health_of
from megatron_mplug2.training.guard import BadStep
from megatron_mplug2.training.health_state import HealthState, LeftOut
from megatron_mplug2.training.step import StepWork


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """Where the weights come from now."""

    steps: int
    """Steps that they had made; the samples of all since are left out."""
    productive_s: float
    """As it was then (`HealthState`)."""


class BadSteps:
    """The policy, on every rank; told of each step."""

    def __init__(self, config: RunConfig, state: HealthState, saver: Saver, note: Callable[[str], None]) -> None:
        self._config, self._saver, self._note = config, saver, note
        self.in_a_row = state.bad_in_a_row
        self.left_out = state.left_out

    def good(self) -> None:
        self.in_a_row = 0

    def bad(self, work: StepWork, bad: BadStep) -> RolledBack | None:
        """The step has made no update. Goes on without it, or from the newest checkpoint. Collective over the world.

        Raises UserError where the run is to stop, or has no checkpoint to go back to.
        """
        training = self._config.training
        self.in_a_row += 1
        what = f"step {work.step} ({work.task}): {bad.reason}"
        if training.on_bad_step is OnBadStep.STOP:
            raise UserError(
                f"{what}; it was not taken: lower optimizer.lr={self._config.optimizer.lr:g}, look at the data of this step, "
                "or set training.on_bad_step=skip or roll_back"
            )
        if self.in_a_row >= training.bad_step_limit:
            raise UserError(
                f"{what}; that makes {self.in_a_row} bad steps in a row, training.bad_step_limit={training.bad_step_limit}: "
                f"lower optimizer.lr={self._config.optimizer.lr:g}, or look at the data of these steps"
            )
        if training.on_bad_step is OnBadStep.SKIP:
            self._leave_out(work.step, work.step, bad)
            self._note(f"{what}; skipped")
            return None
        found = self._saver.roll_back()
        back = found.state.step
        self._leave_out(back, work.step, bad)
        self._note(f"{what}; back to the weights after step {back}, without the samples of {work.step + 1 - back} steps")
        return RolledBack(steps=back, productive_s=health_of(found).productive_s)

    def _leave_out(self, first: int, last: int, bad: BadStep) -> None:
        kept = tuple(entry for entry in self.left_out if entry.last < first)  # a roll-back covers those after its checkpoint
        self.left_out = (*kept, LeftOut(first=first, last=last, reason=bad.reason))
