"""What the points have given: a JSON line each in `results.jsonl`, which is replaced whole: a kill leaves the old one or the new."""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from launchers.sweep.points import Layout
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.errors import UserError

RESULTS = "results.jsonl"


class Spread(Frozen):
    """Median and quartiles over steps."""

    low: float = Field(ge=0)
    median: float = Field(ge=0)
    high: float = Field(ge=0)

    @model_validator(mode="after")
    def _check(self) -> "Spread":
        if not self.low <= self.median <= self.high:
            raise ValueError("quartiles stand around their median")
        return self


class Machines(Frozen):
    """What a point ran on."""

    count: int = Field(gt=0)
    cores: int = Field(gt=0)
    """That the ranks of a machine may use, of the machine with the fewest."""
    device: str
    """Name of a rank's GPU, or of the processor."""
    oversubscribed: bool
    """Whether the ranks of some machine ask for more cores than they have. Ranks on GPUs ask for none."""
    others: float = Field(ge=0)
    """Cores that other processes used meanwhile, of the machine where these were most; a mean over the training."""
    disturbed: bool
    """Whether these were cores that the ranks asked for."""


class Measured(Frozen):
    steps: int = Field(gt=0)
    """Over which the figures are medians."""
    step_s: Spread
    sections: dict[str, Spread]
    """Seconds a step by `observability.sections.Section`, of the median rank."""
    samples_per_s: float = Field(gt=0)
    """Global batch over the median step."""
    mfu: float | None
    """None where a device's peak is not known."""
    tflops: float = Field(ge=0)
    """The model's operations a second of one device."""
    memory_gb: float = Field(ge=0)
    """Most of a rank, in any of the steps: allocated on its GPU, or resident on the CPU."""
    communication: float = Field(ge=0, le=1)
    """Share of the step in which data-parallel ranks meet: see `launchers.sweep.measure`."""
    machines: Machines


class Failure(Frozen):
    code: int | None
    """What the point exited with; None where its job did not write that down."""
    reason: str


class Row(Frozen):
    """Of one point: either measured or failed."""

    digest: str
    layout: Layout
    global_batch: int = Field(gt=0)
    at: float
    """When it ended; seconds since 1970."""
    commit: str | None
    """Of git, of the code that ran; None where that is not known."""
    measured: Measured | None = None
    failed: Failure | None = None

    @model_validator(mode="after")
    def _check(self) -> "Row":
        if (self.measured is None) == (self.failed is None):
            raise ValueError("a row is either measured or failed")
        return self


@dataclass(frozen=True, kw_only=True)
class Results:
    rows: dict[str, Row]
    """By digest; of a point that comes twice the last one."""
    spoilt: tuple[str, ...]
    """A line for a person about each row that cannot be read."""


def read_results(folder: Path) -> Results:
    """Every row that is whole; without any where there is no file. Raises UserError where it cannot be read at all."""
    path = folder / RESULTS
    rows, spoilt = {}, []
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError:
            spoilt.append(f"{path}: row {number} is cut off or spoilt and is left out: `mplug2 sweep run` measures its point again")
            continue
        rows[row.digest] = row
    return Results(rows=rows, spoilt=tuple(spoilt))


def add_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Puts rows in the place of older ones of their points. Raises UserError where the folder cannot be written."""
    try:
        with _held(folder):
            kept = read_results(folder).rows | {row.digest: row for row in rows}
            unfinished = folder / f".{RESULTS}.unfinished"  # of one process at a time; a killed one's is written over
            unfinished.write_text("".join(f"{row.model_dump_json()}\n" for row in kept.values()), encoding="utf-8")
            unfinished.replace(folder / RESULTS)
    except OSError as error:
        raise UserError(f"cannot write {folder / RESULTS}: {error.strerror}; the sweep's folder must be on storage that is there") from None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Against another process that adds rows at this moment; it takes milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{RESULTS}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
