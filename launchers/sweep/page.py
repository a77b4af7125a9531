"""The report of a sweep: its plots as PNG, and one page with plots and tables that needs no other file."""

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from launchers.sweep.config import Scaling
from launchers.sweep.measure import STEP
from launchers.sweep.plots import NAMES, Plot, plots
from launchers.sweep.points import Sweep
from launchers.sweep.results import Spread
from launchers.sweep.scaling import HEAD, OVERSUBSCRIBED, Figure, cells, figures, megabytes
from launchers.sweep.state import Progress, SweepState
from megatron_mplug2.errors import UserError
from megatron_mplug2.pages.markup import shown, table
from megatron_mplug2.pages.shell import page, replace_page

PAGE = "report.html"
_STYLE = Path(__file__).with_name("style.css")

HOW_TO_READ = (
    "Efficiency: samples a second of a rank, over those of the quickest point of those with the fewest ranks; none where one of these "
    "was disturbed. MFU and TFLOP/s count the model's operations alone, neither what is computed again nor the feature pass. Memory: "
    "most of a rank, allocated on its GPU or resident on a CPU. DP comm.: the share of the step in its first collective and in the "
    "reduction of gradients over data-parallel ranks, waiting included; what tensor and pipeline parallelism send, and VLC's features, "
    "lie within the passes, where no clock tells them apart. Sent: the bytes of all four, below. "
    "A section's time is that of the median rank, so sections do not add up to the step where ranks differ."
)
SENT = (
    "Megabytes (10^6) by a rank of the stage that sends most, counted from the sizes of what is exchanged, not measured; of collectives as "
    "rings send them. Tensor: sums of activations and their gradients, with sequence parallelism gathered and scattered. Pipeline: "
    "messages between stages, and gradients of tied embeddings that lie on two. Features: VLC's, of the global batch. Gradients and "
    "weights: over data-parallel ranks."
)
_SENT_HEAD = ("point", "tensor", "pipeline", "features", "gradients and weights", "all")
SHARED = (
    f"Points that are {OVERSUBSCRIBED} have more ranks on a machine than cores that these may use, and share them in turns: their times "
    "say that the layout runs, and nothing about scaling, so they have no efficiency."
)
DISTURBED = (
    "While some points were measured, other processes took cores that their ranks asked for: their times are not the layout's own, and "
    "they have no efficiency. To measure them on a machine that does nothing else, delete their rows in results.jsonl and their folders, "
    "and run the sweep again."
)


def write_report(sweep: Sweep, state: SweepState, folder: Path) -> list[Path]:
    """Writes plots and page into a folder, in the place of older ones; returns what was written, the page first.

    Raises UserError where nothing is measured yet, or the folder cannot be written.
    """
    found = figures(state.points)
    if not found:
        raise UserError(f"{sweep.folder} has no measured points yet: `mplug2 sweep status` shows how far it is")
    drawn = list(plots(found, sweep.config.scaling))
    out = folder / PAGE
    title = f"Sweep {shown(sweep.folder.name)}"
    replace_page(out, page(title, _body(sweep, state, found, drawn), _STYLE.read_text(encoding="utf-8")))
    for name in set(NAMES).difference(plot.name for plot in drawn):
        (folder / f"{name}.png").unlink(missing_ok=True)  # of an older report
    return [out, *(_write(folder / f"{plot.name}.png", plot.png) for plot in drawn)]


def _write(path: Path, content: bytes) -> Path:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def _body(sweep: Sweep, state: SweepState, found: Sequence[Figure], drawn: Sequence[Plot]) -> Iterator[str]:
    yield f"<p>{shown(summary(sweep, state), 600)}</p><p class='note'>{shown(_hardware(found), 600)}</p>"
    yield from (f"<p class='doubt'>{shown(doubt, 400)}</p>" for doubt in state.doubts)
    if any(each.oversubscribed for each in found):
        yield f"<p class='doubt'>{SHARED}</p>"
    if any(each.measured.machines.disturbed for each in found):
        yield f"<p class='doubt'>{DISTURBED}</p>"
    yield f"<div class='plots'>{''.join(_figure(plot) for plot in drawn)}</div>"
    yield f"<h2>Measured</h2><div class='numbers marked'>{table(HEAD, ([shown(cell) for cell in cells(each)] for each in found))}</div>"
    yield f"<p class='note'>{HOW_TO_READ}</p>"
    yield "<h2>Step by section</h2><p class='note'>Milliseconds, median and quartiles over the steps.</p>"
    yield f"<div class='numbers'>{table(('point', *STEP), ([shown(cell) for cell in _section_cells(each)] for each in found))}</div>"
    if any(each.sent is not None for each in found):
        yield f"<h2>Sent by a rank in a step</h2><p class='note'>{SENT}</p>"
        yield f"<div class='numbers'>{table(_SENT_HEAD, ([shown(cell) for cell in _sent_cells(each)] for each in found))}</div>"
    yield from _others(sweep, state)


def summary(sweep: Sweep, state: SweepState) -> str:
    """A sentence."""
    config = sweep.config
    each = "of each data-parallel rank" if config.scaling is Scaling.WEAK else "of all ranks together"
    counts = [(len(state.of(progress)), progress.value) for progress in Progress] + [(len(sweep.skipped), "cannot be run")]
    points = ", ".join(f"{count} {what}" for count, what in counts if count)
    steps = f"{config.steps - config.warmup_steps} steps after {config.warmup_steps} of warm-up"
    return f"{config.scaling.capitalize()} scaling of {config.config}, batch {config.batch} {each}; medians over {steps}. Points: {points}."


def _hardware(found: Sequence[Figure]) -> str:
    machines = {each.measured.machines for each in found}
    kinds = sorted({f"{one.device}, {one.cores} cores for the ranks of a machine" for one in machines})
    commits = sorted({each.row.commit for each in found if each.row.commit})
    most = max(one.count for one in machines)
    told = f" Commit {', '.join(commit[:10] for commit in commits)}." if commits else ""
    return f"On up to {most} machine{'s' if most > 1 else ''}: {'; '.join(kinds)}.{told}"


def _figure(plot: Plot) -> str:
    source = f"data:image/png;base64,{base64.b64encode(plot.png).decode()}"
    return f'<figure><img src="{source}" alt="{shown(plot.title)}"></figure>'


def _section_cells(figure: Figure) -> list[str]:
    sections = figure.measured.sections
    return [figure.name, *(_milliseconds(sections[section]) if section in sections else "" for section in STEP)]


def _sent_cells(figure: Figure) -> list[str]:
    sent = figure.sent
    if sent is None:
        return [figure.name, *("-" for _ in _SENT_HEAD[1:])]
    return [figure.name, *map(megabytes, (sent.tensor, sent.pipeline, sent.features, sent.data, sent.total))]


def _milliseconds(seconds: Spread) -> str:
    low, median, high = (_three(1e3 * each) for each in (seconds.low, seconds.median, seconds.high))
    return f"{median} ({low} - {high})"


def _three(value: float) -> str:
    """At least three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _others(sweep: Sweep, state: SweepState) -> Iterator[str]:
    if failed := state.of(Progress.FAILED):
        rows = [(shown(each.point.layout.name), shown(each.detail, 400)) for each in failed]
        yield f"<h2>Failed</h2>{table(('point', 'why'), rows)}"
    if open_ := state.of(Progress.QUEUED, Progress.TO_DO):
        rows = [(shown(each.point.layout.name), shown(f"{each.progress} {each.detail}")) for each in open_]
        yield f"<h2>Not measured yet</h2>{table(('point', ''), rows)}"
    if sweep.skipped:
        rows = [(shown(each.name), shown(each.reason, 400)) for each in sweep.skipped]
        yield f"<h2>Layouts that cannot be run</h2>{table(('layout', 'why'), rows)}"
