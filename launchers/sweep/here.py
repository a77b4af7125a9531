"""A sweep on this machine: its points one after the other, each in a process of its own."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from launchers.child import ChildEnd, run_child
from launchers.snapshot import git_state
from launchers.sweep.outcome import PointEnd, row_of
from launchers.sweep.points import Point, Sweep
from launchers.sweep.results import Row, add_rows
from megatron_mplug2.config.load import RESOLVED_NAME, write_resolved
from megatron_mplug2.errors import ExitCode, UserError

LOG = "log.txt"
"""What a point printed, in its folder."""


def check_nodes(points: Sequence[Point]) -> None:
    """Raises UserError where a point asks for several nodes."""
    most = max(point.layout.nodes for point in points)
    if most > 1:
        raise UserError(f"the sweep has points of {most} nodes, and this machine is one: name a cluster of SLURM, or set nodes: [1]")


def run_here(sweep: Sweep, points: Sequence[Point], environ: Mapping[str, str], lock: int, tell: Callable[[str], None]) -> int:
    """Runs the points; returns 0 where all are measured, FAILED where some died, which stops no other.

    A signal goes on to the point that runs, and ends the sweep with its exit code. `lock` is a file descriptor that lives as long as the
    points' processes.
    """
    died = 0
    for number, point in enumerate(points, 1):
        tell(f"{number} of {len(points)}: {point.layout.name}")
        end = _run(point, environ, lock)
        if end.asked_to_stop:
            tell("stopped; the same command measures this point anew, and those that are missing")
            return end.code or ExitCode.STOPPED
        row = _row(point, end, sweep)
        add_rows(sweep.folder, [row])
        died += row.failed is not None
        tell(_told(row))
    return ExitCode.FAILED if died else ExitCode.FINISHED


def _run(point: Point, environ: Mapping[str, str], lock: int) -> ChildEnd:
    """Anew: what an earlier attempt has left does not count."""
    folder = point.run.run_dir
    shutil.rmtree(folder, ignore_errors=True)
    write_resolved(point.run, folder)
    command = [sys.executable, "-m", "megatron_mplug2.cli", "sweep", "point", str(folder / RESOLVED_NAME)]
    with (folder / LOG).open("wb") as log:
        return run_child(command, environ, lock, log)


def _row(point: Point, end: ChildEnd, sweep: Sweep) -> Row:
    told = PointEnd(code=end.code, at=time.time(), commit=git_state().commit, logs=(point.run.run_dir / LOG,))
    return row_of(point, told, sweep.config.warmup_steps)


def _told(row: Row) -> str:
    if row.measured is None:
        assert row.failed is not None
        return f"  failed with {row.failed.code}: {row.failed.reason}"
    mark = "".join(f", {word}" for word in ("oversubscribed", "disturbed") if getattr(row.measured.machines, word))
    return f"  {row.measured.samples_per_s:.4g} samples/s, step {1e3 * row.measured.step_s.median:.0f} ms{mark}"
