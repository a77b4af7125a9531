"""What all stages are: pieces of work, each a pure function of what was asked, and a last step once all pieces are there.

So a kill loses the pieces in work and no more, and neither processes, parts nor kills change a byte of the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from data_tools.stages.part import Part
from data_tools.stages.pool import Faults, Slot, run_pieces
from data_tools.stages.progress import tally
from data_tools.stages.work_folder import Asked, WorkFolder

Piece = TypeVar("Piece")


class Stage(Protocol[Piece]):
    @property
    def name(self) -> str:
        """As in `mplug2 data NAME`."""

    @property
    def last_file(self) -> str:
        """Relative name of the file that is written last: the folder is finished, and readable, when it is there."""

    @property
    def asked(self) -> Asked:
        """What the result depends on; a folder is never filled with two different things."""

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in the same order every time."""

    def file(self, piece: Piece) -> str:
        """Relative name of the file that is there once the piece is done."""

    def make(self, piece: Piece, folder: WorkFolder, faults: Faults, slot: Slot) -> None:
        """Does the piece, in a process of its own; its `file` is written last."""

    def finish(self, folder: WorkFolder, files: Sequence[str]) -> None:
        """Writes what needs all pieces, whose `files` are there; `last_file` last. Called by one process at a time."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How a stage is run, without a change in what it writes."""

    part: Part = field(default_factory=Part)
    workers: int = 1
    """Processes."""
    sample_timeout_s: float = 300.0
    """Seconds after which looking at one sample counts as hung."""


def run_stage(stage: Stage[Piece], out: Path, effort: Effort) -> int:
    """Does this part of the stage, and the last step if all other parts are done; what is there already is kept.

    Returns the number of pieces of other parts that are missing still: 0 when the folder is finished. Raises UserError as `WorkFolder` and
    the stage do.
    """
    folder = WorkFolder(out, effort.part)
    with folder.begun(_asked(stage)):
        if (out / stage.last_file).exists():
            return 0
        files: list[str] = []
        with tally(f"{stage.name} {out.name}") as progress:
            for _ in run_pieces(
                _missing(stage, out, effort.part, files),
                lambda piece, faults, slot: stage.make(piece, folder, faults, slot),
                workers=effort.workers,
                sample_timeout_s=effort.sample_timeout_s,
                looked=progress.looked,
            ):
                progress.piece_done()
        folder.check(_asked(stage))  # what was read as it changed would be half the one and half the other
        with folder.alone():
            if (out / stage.last_file).exists():
                return 0
            left = sum(not (out / file).exists() for file in files)
            if not left:
                stage.finish(folder, files)
    return left


def _asked(stage: Stage[Piece]) -> Asked:
    return {"stage": stage.name} | dict(stage.asked)


def _missing(stage: Stage[Piece], out: Path, part: Part, files: list[str]) -> Iterator[Piece]:
    """The pieces of a part that are not there yet; notes the files of all parts."""
    for number, piece in enumerate(stage.pieces()):
        file = stage.file(piece)
        files.append(file)
        if part.has(number) and not (out / file).exists():
            yield piece
