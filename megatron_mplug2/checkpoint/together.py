"""Work after which all ranks go on, or all fail: a rank that fails alone leaves the others waiting in the next collective."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from megatron_mplug2.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Failure:
    line: str
    by_user: bool
    """Whether it is a message to the person at the shell."""


@contextmanager
def together(work: str) -> Iterator[None]:
    """Around work of one rank without collectives, entered by all ranks of the world. `work` completes "cannot ...".

    A failure is raised where it happened as it is, an OSError as a UserError that names the work, the file and the reason. The other
    ranks raise the first failing rank's: UserError with the same line, or RuntimeError that names the rank.
    """
    failure: Exception | None = None
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        failure = UserError(f"cannot {work}: {error.strerror or error}{file}")
    except Exception as error:
        failure = error
    report = None
    if failure is not None:
        by_user = isinstance(failure, UserError)
        report = _Failure(line=str(failure) if by_user else f"{type(failure).__name__}: {failure}", by_user=by_user)
    reports = gather(report)
    if failure is not None:
        raise failure
    for rank, other in enumerate(reports):
        if other is not None:
            raise UserError(other.line) if other.by_user else RuntimeError(f"rank {rank} failed: {other.line}")


def gather(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's picklable value, in order of rank in the group (of the world, if None)."""
    values: list[T] = [value] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def from_rank_0(value: T) -> T:
    """Rank 0's picklable value, on every rank."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
