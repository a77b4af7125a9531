"""Where the time of one start of a run went, told again with each checkpoint, so that a killed start has told of all that it saved."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Use(StrEnum):
    STEPS = "steps"
    """Waits for data included; also steps that made no update."""
    LOGGING = "logging"
    VALIDATION = "validation"
    CHECKPOINT = "checkpoint"
    """The training stood still for it, or went back to it; not what is written beside the steps."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Of a run, at one of its events."""

    productive_s: float = 0.0
    """Of the steps that made the weights, over all starts (`training.health_state`)."""
    spent: Mapping[Use, float] = field(default_factory=dict)
    """Seconds since this start was ready for its first step."""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {"productive_s": round(self.productive_s, 3), "spent": {use.value: round(seconds, 3) for use, seconds in self.spent.items()}}


class SpentClock:
    """Cuts the time into uses, without a gap."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(Use, 0.0)
        self.mark = time.monotonic()
        """Where the last use ended."""

    def took(self, use: Use) -> float:
        """The time since the last mark went into this; returns how long it was."""
        now = time.monotonic()
        seconds, self.mark = now - self.mark, now
        self.spent[use] += seconds
        return seconds


_began: float | None = None


def command_begins() -> None:
    """To be called where a command begins; processes that it forks inherit that."""
    global _began
    _began = time.time()


def command_began() -> float | None:
    """Seconds since 1970; None where no command was begun, in a program that calls the training itself."""
    return _began
