"""The event of a sample that cannot be used, and which of its findings by several ranks counts."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.split import Split


class Fault(StrEnum):
    CONTENT = "content"
    """The sample itself: it is bad wherever and whenever it is read."""
    STORAGE = "storage"
    """Reading it, after several tries: it may be read well at another time. So may a sample that hung its decoder, or crashed it."""


class Substitution(BaseModel):
    """One event: a line of the ledger, and, where storage was at fault, a part of the data state."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split
    task: Task
    corpus: str
    """Fingerprint of the stream."""
    dataset: str
    """Name of the bad sample's folder of shards."""
    shard: str
    """File name of its tar."""
    position: int = Field(ge=0)
    """In the stream."""
    index: int = Field(ge=0)
    """Of the bad sample, in the stream's manifest."""
    key: str
    """The bad sample's name."""
    fault: Fault
    """STORAGE if it had a part in the choice of the substitute."""
    reason: str
    attempt: int = Field(gt=0)
    """Which of the position's candidates took its place, from 1 on."""
    substitute: int = Field(ge=0)
    """Its index in the manifest."""

    @property
    def event(self) -> tuple[Split, Task, int]:
        return self.split, self.task, self.position


Substitutions = tuple[Substitution, ...]


def settled(found: Iterable[Substitution]) -> Substitutions:
    """One of all ranks' findings for each event, the last candidate that any rank had to go on to; in order of position."""
    ordered = sorted(found, key=lambda one: (one.event, one.attempt, one.fault, one.reason))
    return tuple({substitution.event: substitution for substitution in ordered}.values())
