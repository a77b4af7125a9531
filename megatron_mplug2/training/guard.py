"""What all ranks agree on before each update: whether the step is bad (a loss or gradient that is no number, or a spike), and whether
somebody wants the run to stop."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from statistics import median

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.objectives.result import Objective
from megatron_mplug2.parallel.device import device

WINDOW = 64
"""Good steps of a task whose median counts."""
FEWEST = 16
"""Good steps of a task before which nothing is a spike."""


class Seen(BaseModel):
    """Of a good step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: float
    grad_norm: float


Recent = dict[Task, tuple[Seen, ...]]


class Fault(IntEnum):
    """Worst last: ranks agree on the worst that one of them found."""

    NONE = 0
    SPIKE = 1
    NO_NUMBER = 2


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """Why a step makes no update."""

    reason: str
    """Completes "step 7 (text): "."""


class Guard:
    """Sees every step before its update."""

    def __init__(self, config: RunConfig, recent: Recent, asked: Callable[[], bool] = lambda: False) -> None:
        """`recent`: of the checkpoint that the run goes on from. `asked`: whether this rank was asked to stop."""
        self._asked = asked
        self.stopping = False
        """Whether a rank had been asked to stop at the last judgement; the same on all ranks."""
        self._factor = config.training.spike_factor
        objectives = config.objectives
        self._weights = {
            Objective.MLM: objectives.mlm.weight,
            Objective.VLC: objectives.vlc.weight,
            Objective.VLM: objectives.vlm.weight,
            Objective.LM: objectives.lm.weight,
        }
        self._recent = {task: deque(recent.get(task, ()), maxlen=WINDOW) for task in Task}

    @property
    def recent(self) -> Recent:
        """What a resume needs of it."""
        return {task: tuple(seen) for task, seen in self._recent.items() if seen}

    def judge(self, task: Task, losses: Mapping[Objective, float], grad_norm: float, *, finite_here: bool) -> BadStep | None:
        """Why the step is bad, None where it is good. Collective over the world, with the same answer everywhere.

        `losses` are unweighted means over the global batch; `finite_here` says whether all gradients on this rank are finite: the norm
        leaves out what other ranks hold too.
        """
        seen = Seen(loss=sum(self._weights[name] * loss for name, loss in losses.items()), grad_norm=grad_norm)
        fault = self._agreed(self._own_fault(task, seen) if finite_here else Fault.NO_NUMBER)
        shown = f"gradient norm {grad_norm:.4g}, losses " + ", ".join(f"{name} {loss:.4g}" for name, loss in losses.items())
        if fault is Fault.NO_NUMBER:
            return BadStep(reason=f"a loss or gradient is no number ({shown})")
        if fault is Fault.SPIKE:
            return BadStep(reason=f"a spike ({shown}; {self._usual(task)})")
        self._recent[task].append(seen)
        return None

    def _agreed(self, fault: Fault) -> Fault:
        """The worst of all ranks: replicas' norms may differ in the last bit, so that one alone may be over the limit.

        One reduction for both questions, where the gradient norm has just been waited for.
        """
        everyones = torch.tensor([int(fault), int(self._asked())], device=device())
        dist.all_reduce(everyones, op=dist.ReduceOp.MAX)
        worst, stopping = everyones.tolist()
        self.stopping = bool(stopping)
        return Fault(worst)

    def _own_fault(self, task: Task, seen: Seen) -> Fault:
        if not (math.isfinite(seen.loss) and math.isfinite(seen.grad_norm)):
            return Fault.NO_NUMBER
        if not self._factor or len(self._recent[task]) < FEWEST:
            return Fault.NONE
        loss, grad_norm = self._medians(task)
        return Fault.SPIKE if seen.loss > self._factor * loss or seen.grad_norm > self._factor * grad_norm else Fault.NONE

    def _medians(self, task: Task) -> tuple[float, float]:
        recent = self._recent[task]
        return median(seen.loss for seen in recent), median(seen.grad_norm for seen in recent)

    def _usual(self, task: Task) -> str:
        loss, grad_norm = self._medians(task)
        return f"usual: gradient norm {grad_norm:.4g}, weighted loss {loss:.4g}; training.spike_factor={self._factor:g}"
