"""What ranks tell one another beside their collectives, through small files in the run folder: that they live, and where they are."""

import os
import socket
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from types import FrameType

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_mplug2.observability.sections import Position, Section

FOLDER = "health"
WAITING_IN = (
    "torch/distributed/",
    "megatron/core/distributed/",
    "megatron/core/pipeline_parallel/",
    "megatron/core/tensor_parallel/mappings",
)
"""Files whose code at the top of a stack means: in a collective, waiting for others."""
ROOTS = ("megatron_mplug2/", "launchers/", "data_tools/")


class Beat(BaseModel):
    """One rank's life sign."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    host: str
    pid: int
    born: float
    """When the process began, which tells it from a later one of the same number."""
    count: int
    """Beats so far: a rank whose count stands still is dead, stopped, or holds its interpreter."""
    step: int
    section: Section
    waits: bool
    """Whether its main thread is in a collective."""
    doing: str
    """File, line and function of this project where its main thread is."""


def beat_path(run_dir: Path, rank: int) -> Path:
    return run_dir / FOLDER / f"rank-{rank:05d}.json"


def write_beat(run_dir: Path, rank: int, count: int, position: Position) -> None:
    """Raises OSError where the folder cannot be written."""
    waits, doing = _main_thread()
    beat = Beat(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        born=_born(os.getpid()),
        count=count,
        step=position.step,
        section=position.section,
        waits=waits,
        doing=doing,
    )
    path = beat_path(run_dir, rank)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(beat.model_dump_json())
    unfinished.replace(path)


def read_beats(run_dir: Path, world_size: int) -> dict[int, Beat]:
    """By rank, of those that left one."""
    beats = {}
    for rank in range(world_size):
        try:
            beats[rank] = Beat.model_validate_json(beat_path(run_dir, rank).read_bytes())
        except (OSError, ValidationError):  # not there, or being replaced on a file system where that shows
            continue
    return beats


def forget_beats(run_dir: Path) -> None:
    """Those of an earlier start."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    for path in folder.glob("rank-*"):
        path.unlink()


def process_of(beat: Beat) -> psutil.Process | None:
    """The rank's process, where it is on this node and lives."""
    if beat.host != socket.gethostname():
        return None
    try:
        process = psutil.Process(beat.pid)
        return process if process.create_time() == beat.born else None
    except psutil.Error:
        return None


@cache
def _born(pid: int) -> float:
    """By process, since a fork has its parent's cache."""
    return psutil.Process(pid).create_time()


def _main_thread() -> tuple[bool, str]:
    """Whether the main thread is in a collective, and the innermost place of this project in its stack."""
    ident = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(ident) if ident is not None else None
    if frame is None:
        return False, "nowhere"
    waits = any(part in frame.f_code.co_filename for part in WAITING_IN)
    for place in reversed(traceback.extract_stack(frame)):
        root = next((root for root in ROOTS if root in place.filename), None)
        if root is not None:
            return waits, f"{root}{place.filename.rpartition(root)[2]}:{place.lineno} {place.name}"
    return waits, f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
