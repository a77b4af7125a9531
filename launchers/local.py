"""Starts the ranks of a run on this machine, or joins those that torchrun or srun started.

Ranks are forked from a process that has imported everything (importing takes seconds, forking a fraction of one). So nothing may
have touched CUDA, or run PyTorch on several threads, in the process that calls `launch`.
"""

import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType

import torch

from launchers.ranks import Entry, Ranks, check_world_size, joined_ranks, run_rank
from launchers.stop_signal import STOP_SIGNAL
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import BrokenDataError, CutShortError, ExitCode, RankError, UserError

GRACE_S = 10.0
"""How long the other ranks may take to end by themselves once one has failed."""
POLL_S = 0.05
FORWARDED = (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL)
DONE = (ExitCode.FINISHED, ExitCode.STOPPED)


def launch(config: RunConfig, entry: Entry) -> ExitCode:
    """Runs `entry(config)` on every rank of the layout, and returns how they ended when all have.

    Under torchrun or srun this process is one rank; else it forks `layout.world_size` local ranks (one runs in this process).
    SIGINT, SIGTERM and the cluster's signal are passed on to local ranks once, for them to save and end; a second SIGINT ends them at once.

    Raises:
        UserError: the ranks that are there don't fit the layout, or a rank raised it.
        RankError: a local rank failed; its traceback has been printed.
        SystemExit: 128 + the signal that stopped the ranks before they could handle it; or ExitCode.HUNG where a rank was stuck, which one
            of them told.
    """
    joined = joined_ranks(os.environ)
    if joined is not None:
        check_world_size(config.layout, joined)
        return run_rank(joined, config, entry)
    with tempfile.TemporaryDirectory(prefix="mplug2-") as folder:
        if config.layout.world_size == 1:
            return run_rank(_local_rank(0, 1, Path(folder)), config, entry)
        _check_gpus(config.layout.world_size)
        return _LocalRanks(config, entry, Path(folder)).run()


def _local_rank(rank: int, world_size: int, folder: Path) -> Ranks:
    return Ranks(rank=rank, world_size=world_size, local_rank=rank, init_method=f"file://{folder}/rendezvous", started_by="mplug2")


def _check_gpus(world_size: int) -> None:
    gpus = torch.cuda.device_count()  # asks the driver's library, and leaves CUDA uninitialised for the forks
    if 0 < gpus < world_size:
        raise UserError(
            f"layout asks for {world_size} ranks, this machine has {gpus} GPUs: lower layout.* (or hide the GPUs to run on the CPU)"
        )


class _LocalRanks:
    """The forked ranks, from start to end, seen from the process that started them."""

    def __init__(self, config: RunConfig, entry: Entry, folder: Path) -> None:
        world_size = config.layout.world_size
        context = multiprocessing.get_context("fork")
        places = [_local_rank(rank, world_size, folder) for rank in range(world_size)]
        self.processes = [
            context.Process(target=_rank_main, args=(place, config, entry, folder), name=f"rank {place.rank}") for place in places
        ]
        self.folder = folder
        self.failed: list[int] = []
        """Ranks that failed by themselves, the first one first."""
        self.stopped_by: int | None = None

    def run(self) -> ExitCode:
        with _handling(FORWARDED, self._forward):
            _start_undisturbed(self.processes)
            try:
                self._wait()
            finally:
                self._end()
        if not self.failed:
            return ExitCode.STOPPED if any(process.exitcode for process in self.processes) else ExitCode.FINISHED
        if self.stopped_by is not None and not _report_path(self.folder, self.failed[0]).exists():
            raise SystemExit(128 + self.stopped_by)
        raise self._failure(self.failed[0])

    def _forward(self, signum: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by = signum
            for process in self.processes:
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signum)
        elif signum == signal.SIGINT:
            raise SystemExit(128 + signum)

    def _wait(self) -> None:
        """Until all have ended, or the grace after the first failure is over.

        Exit codes are polled: a rank's sentinel stays open as long as any process that the rank started lives.
        """
        deadline = float("inf")
        while any(process.exitcode is None for process in self.processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)
            new = [rank for rank, process in enumerate(self.processes) if process.exitcode not in (None, *DONE) and rank not in self.failed]
            self.failed += sorted(new, key=self._time_of_report)
            if self.failed and deadline == float("inf"):
                deadline = time.monotonic() + GRACE_S

    def _end(self) -> None:
        """Ends what is left of the ranks and of the processes that they started."""
        for process in self.processes:
            if process.pid is None:
                continue
            if process.exitcode not in DONE:
                process.kill()
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def _time_of_report(self, rank: int) -> int:
        """A rank that was killed left no report, and comes before those that failed because it was gone."""
        report = _report_path(self.folder, rank)
        return report.stat().st_mtime_ns if report.exists() else 0

    def _failure(self, rank: int) -> Exception | SystemExit:
        report, code = _report_path(self.folder, rank), self.processes[rank].exitcode or 0
        who = f"rank {rank} of {len(self.processes)}"
        if any(process.exitcode == ExitCode.HUNG for process in self.processes):  # a silent rank was ended by the one that told of it
            return SystemExit(ExitCode.HUNG)
        if not report.exists():
            end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return RankError(f"{who} {end}{' (out of memory?)' if code == -signal.SIGKILL else ''}")
        said = json.loads(report.read_text())
        for kind in (UserError, BrokenDataError, CutShortError):
            if said["exit_code"] == kind.exit_code:
                return kind(said["line"])
        sys.stderr.write(said["traceback"])
        return RankError(f"{who} failed: {said['line']}")


@contextmanager
def _handling(signals: Sequence[signal.Signals], handler: "signal._HANDLER") -> Iterator[None]:
    before = [signal.signal(signum, handler) for signum in signals]
    try:
        yield
    finally:
        for signum, handler_before in zip(signals, before, strict=True):
            signal.signal(signum, handler_before)


def _start_undisturbed(processes: Sequence[ForkProcess]) -> None:
    """Forks all with signals held back, so that each signal finds all ranks or none."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def _report_path(folder: Path, rank: int) -> Path:
    return folder / f"failure-{rank}.json"


def _rank_main(ranks: Ranks, config: RunConfig, entry: Entry, folder: Path) -> None:
    """A forked rank. In a session of its own, a Ctrl-C at the terminal reaches it through its parent only."""
    os.setsid()
    gc.freeze()  # what the parent left unreferenced, such as a process group, must not be destroyed here, without its threads
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # the cluster's stays held back until training takes it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        end = run_rank(ranks, config, entry)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except Exception as error:
        _report(error, _report_path(folder, ranks.rank))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.FAILED)  # at once: what would be cleaned up may wait for the other ranks
    sys.exit(end)


def _end_with_parent() -> None:
    """Without its parent a rank would train on unseen, beside the run that is started in its place."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _report(error: Exception, path: Path) -> None:
    last_line = traceback.format_exception_only(error)[-1].strip()
    code, line = (error.exit_code, str(error)) if isinstance(error, UserError) else (ExitCode.FAILED, last_line)
    report = {"exit_code": code, "line": line, "traceback": traceback.format_exc()}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(report))
    unfinished.replace(path)
