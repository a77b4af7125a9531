"""Which task each step does, and where in its stream it begins: a pure function of (seed, step) and the schedule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schema import PhaseConfig, Task
from megatron_mplug2.data.draws import Purpose, fractions, key_bits, weyl

_TASKS = tuple(Task)


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of the run, the same on every rank."""

    step: int
    task: Task
    phase: PhaseConfig
    stream_position: int
    """Samples of the task's stream that earlier steps took: its global batch is the `global_batch` positions from here on."""


class StepPlan:
    """All steps of a schedule. Any stretch of steps holds each task by its share up to a few steps, closer than independent draws."""

    def __init__(self, schedule: Sequence[PhaseConfig], *, seed: int, global_batch: int) -> None:
        self._schedule = tuple(schedule)
        self._global_batch = global_batch
        self._phases = np.repeat(np.arange(len(schedule)), [phase.steps for phase in schedule])
        self._choices = self._draw(seed)
        self._earlier = np.zeros(len(self._choices), dtype=np.int64)
        for choice in range(len(_TASKS)):
            steps = np.flatnonzero(self._choices == choice)
            self._earlier[steps] = np.arange(len(steps))

    def __len__(self) -> int:
        return len(self._choices)

    def __getitem__(self, step: int) -> PlannedStep:
        """Raises IndexError outside the schedule."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        return PlannedStep(
            step=step,
            task=_TASKS[self._choices[step]],
            phase=self._schedule[self._phases[step]],
            stream_position=int(self._earlier[step]) * self._global_batch,
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks with a share in any phase."""
        return tuple(task for task in _TASKS if any(phase.share(task) > 0 for phase in self._schedule))

    def consumed(self, task: Task, steps: int) -> int:
        """Samples of a stream that the first `steps` steps take."""
        return int((self._choices[:steps] == _TASKS.index(task)).sum()) * self._global_batch

    def _draw(self, seed: int) -> NDArray[np.int64]:
        """[steps] index of each step's task."""
        points = fractions(weyl(len(self._phases), key_bits(Purpose.MIXTURE, seed)[0]))
        shares = np.array([[phase.share(task) for task in _TASKS] for phase in self._schedule])
        borders = np.cumsum(shares, axis=1)[:, :-1] / np.cumsum(shares, axis=1)[:, -1:]
        return (points[:, None] >= borders[self._phases]).sum(axis=1)
