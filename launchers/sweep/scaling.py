"""What the measured points say together: how far each is from ideal scaling, and the table that a person reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from launchers.sweep.results import Measured, Row
from launchers.sweep.state import PointState
from megatron_mplug2.config.layout import EngineChoice
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.planner.traffic import Traffic, busiest_traffic

OVERSUBSCRIBED = "oversubscribed"
HEAD = (
    "point",
    "ranks",
    "batch",
    "samples/s",
    "step ms",
    "quartiles",
    "efficiency",
    "MFU",
    "TFLOP/s",
    "memory GB",
    "DP comm.",
    "sent MB",
    "",
)
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured point among the others."""

    row: Row
    measured: Measured
    efficiency: float | None
    """Samples a second of a rank over those of the reference; None where ranks did not have their cores for themselves, which says nothing
    about scaling."""
    sent: Traffic | None
    """In a step by a rank of the stage that sends most, counted from the config; None of DeepSpeed, which exchanges otherwise."""

    @property
    def name(self) -> str:
        return self.row.layout.name

    @property
    def ranks(self) -> int:
        return self.row.layout.ranks

    @property
    def oversubscribed(self) -> bool:
        return self.measured.machines.oversubscribed


def figures(points: Sequence[PointState]) -> list[Figure]:
    """Of the measured points, few ranks first."""
    runs = {state.point.digest: state.point.run for state in points}
    measured = [(state.row, state.row.measured) for state in points if state.row is not None and state.row.measured is not None]
    reference = _reference(measured)
    found = []
    for row, each in sorted(measured, key=lambda pair: pair[0].layout.ranks):
        efficiency = each.samples_per_s / row.layout.ranks / reference if reference and _had_its_cores(each) else None
        found.append(Figure(row=row, measured=each, efficiency=efficiency, sent=_sent(runs[row.digest])))
    return found


def _sent(run: RunConfig) -> Traffic | None:
    return busiest_traffic(run, make_partition(run)) if run.training.engine is EngineChoice.MEGATRON else None


def _had_its_cores(measured: Measured) -> bool:
    return not (measured.machines.oversubscribed or measured.machines.disturbed)


def _reference(measured: Sequence[tuple[Row, Measured]]) -> float | None:
    """Samples a second of a rank, of the quickest point of those with the fewest ranks. The same for strong and for weak scaling.

    None where one of these was disturbed: it may have been the quickest, and others would look better than they are.
    """
    own = [(row.layout.ranks, each) for row, each in measured if not each.machines.oversubscribed]
    fewest = min((ranks for ranks, _ in own), default=0)
    first = [each for ranks, each in own if ranks == fewest]
    if not all(_had_its_cores(each) for each in first):
        return None
    return max((each.samples_per_s / fewest for each in first), default=None)


def reference_rate(found: Sequence[Figure]) -> float | None:
    """Samples a second of a rank, that efficiencies are relative to."""
    return _reference([(each.row, each.measured) for each in found])


def cells(figure: Figure) -> tuple[str, ...]:
    """Of `HEAD`."""
    row, each = figure.row, figure.measured
    return (
        figure.name,
        str(figure.ranks),
        str(row.global_batch),
        f"{each.samples_per_s:,.4g}",
        f"{1e3 * each.step_s.median:,.4g}",
        f"{1e3 * each.step_s.low:,.4g} - {1e3 * each.step_s.high:,.4g}",
        "-" if figure.efficiency is None else f"{figure.efficiency:.0%}",
        "-" if each.mfu is None else f"{each.mfu:.1%}",
        f"{each.tflops:.3g}",
        f"{each.memory_gb:.2f}",
        f"{each.communication:.0%}",
        "-" if figure.sent is None else megabytes(figure.sent.total),
        _mark(each),
    )


def megabytes(size: float) -> str:
    """Three digits at least."""
    return f"{size / MB:,.0f}" if size >= 100 * MB else f"{size / MB:.3g}"


def _mark(measured: Measured) -> str:
    machines = measured.machines
    disturbed = f"others took {machines.others:.1f} cores" if machines.disturbed else ""
    return ", ".join(filter(None, (OVERSUBSCRIBED if machines.oversubscribed else "", disturbed)))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a terminal: names to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for name, *others in rows:
        padded = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(padded).rstrip())
    return lines
