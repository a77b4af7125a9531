"""Which task each step does, and where in its stream it begins: a pure function of (seed, step) and the schedule."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.data.draws import Purpose, fractions, key_bits, weyl

_TASKS = tuple(Task)
_STRETCH = 1 << 13
"""Steps between counts of what each task took: asking for a step adds up fewer bytes than this."""


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of the run, the same on every rank."""

    step: int
    task: Task
    phase: PhaseConfig
    stream_position: int
    """Samples of the task's stream that earlier steps took: its global batch is the `global_batch` positions from here on."""


class StepPlan:
    """All steps of a schedule, a byte each. Any stretch of steps holds each task by its share up to a few steps, closer than independent
    draws."""

    def __init__(self, schedule: Sequence[PhaseConfig], *, seed: int, global_batch: int) -> None:
        self._schedule = tuple(schedule)
        self._global_batch = global_batch
        self._ends = tuple(accumulate(phase.steps for phase in schedule))
        self._choices = np.concatenate([self._draw(seed, first) for first in range(0, len(self), _STRETCH)])
        taken = [[int((choices == choice).sum()) for choice in range(len(_TASKS))] for choices in self._stretches()]
        self._taken = np.cumsum([[0] * len(_TASKS), *taken], axis=0)
        """[stretches + 1, tasks] steps before each stretch."""

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, step: int) -> PlannedStep:
        """Raises IndexError outside the schedule."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        task = _TASKS[self._choices[step]]
        phase = self._schedule[bisect_right(self._ends, step)]
        return PlannedStep(step=step, task=task, phase=phase, stream_position=self.consumed(task, step))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks with a share in any phase."""
        return tuple(task for task in _TASKS if any(phase.share(task) > 0 for phase in self._schedule))

    def consumed(self, task: Task, steps: int) -> int:
        """Samples of a stream that the first `steps` steps take."""
        choice, stretch = _TASKS.index(task), steps // _STRETCH
        here = self._choices[stretch * _STRETCH : steps]
        return (int(self._taken[stretch, choice]) + int((here == choice).sum())) * self._global_batch

    def _stretches(self) -> Iterator[NDArray[np.int8]]:
        return (self._choices[first : first + _STRETCH] for first in range(0, len(self), _STRETCH))

    def _draw(self, seed: int, first: int) -> NDArray[np.int8]:
        """Index of each step's task, of the stretch of steps from `first` on."""
        count = min(_STRETCH, len(self) - first)
        points = fractions(weyl(count, key_bits(Purpose.MIXTURE, seed)[0], first))
        shares = np.array([[phase.share(task) for task in _TASKS] for phase in self._schedule])
        borders = np.cumsum(shares, axis=1)[:, :-1] / np.cumsum(shares, axis=1)[:, -1:]
        phases = np.searchsorted(self._ends, np.arange(first, first + count), side="right")
        return (points[:, None] >= borders[phases]).sum(axis=1, dtype=np.int8)
