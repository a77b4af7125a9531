"""Work after which all ranks go on, or all fail: a rank that fails alone leaves the others waiting in the next collective."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import torch.distributed as dist

from megatron_mplug2.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Failure:
    line: str
    by_user: bool
    """Whether it is a message to the person at the shell."""

    @classmethod
    def of(cls, error: Exception) -> Self:
        by_user = isinstance(error, UserError)
        return cls(line=str(error) if by_user else f"{type(error).__name__}: {error}", by_user=by_user)


@contextmanager
def together(work: str, group: dist.ProcessGroup | None = None) -> Iterator[None]:
    """Around work of one rank without collectives, entered by all ranks of a group (None: the world). `work` completes "cannot ...".

    An OSError becomes a UserError that names the work, the reason and the file. Ranks raise the first UserError's line, all the same
    one; a defect is raised as it is where it happened, and where there is no UserError elsewhere as a RuntimeError that names the rank.
    """
    failure: Exception | None = None
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        failure = UserError(f"cannot {work}: {error.strerror or error}{file}")
    except Exception as error:
        failure = error
    reports = gather(_Failure.of(failure) if failure is not None else None, group)
    if failure is not None and not isinstance(failure, UserError):
        raise failure
    for report in reports:
        if report is not None and report.by_user:
            raise UserError(report.line)
    for rank, report in enumerate(reports):
        if report is not None:
            raise RuntimeError(f"rank {rank} failed: {report.line}")


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
