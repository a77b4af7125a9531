"""`mplug2 report`: writes the page of a run."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from megatron_mplug2.observability.report import curves
from megatron_mplug2.observability.report.chart import Chart, Frame
from megatron_mplug2.observability.report.figure import figure
from megatron_mplug2.observability.report.overview import doubts, state, steps_done, tiles
from megatron_mplug2.observability.report.replaced import replaced
from megatron_mplug2.observability.report.run_folder import Run, read_run
from megatron_mplug2.observability.report.said import families, results, samples
from megatron_mplug2.observability.report.stages import layout
from megatron_mplug2.observability.report.timeline import events_table, timeline
from megatron_mplug2.pages.markup import shown, verbatim
from megatron_mplug2.pages.shell import page, replace_page

REPORT_NAME = "report.html"
"""In the run folder."""
_STYLE = Path(__file__).with_name("style.css")


def write_run_report(folder: Path, out: Path) -> None:
    """Writes one HTML page about a run's folder, in the place of an older one; the run may be going on.

    Raises UserError where it is no run's folder or cannot be read, and where `out` cannot be written.
    """
    run = read_run(folder)
    name = run.config.name if run.config is not None else folder.absolute().name
    replace_page(out, page(f"Run {shown(name)}", _body(run), _STYLE.read_text(encoding="utf-8")))


def _body(run: Run) -> Iterator[str]:
    yield f"<p class='state'>{state(run)} <span class='faint'>{shown(run.folder, 300)}</span></p>"
    yield from doubts(run)
    yield f"<div class='tiles'>{tiles(run)}</div>"
    frame = _frame(run)
    yield _charts("Losses by objective", [*curves.losses(run.metrics), *curves.retrieval(run.metrics)], frame, curves.HOW_TO_READ)
    yield f"<h2>What the model said</h2>{results(run)}"
    yield from samples(run)
    yield from families(run)
    yield _charts("Speed and memory", curves.speed(run.metrics), frame)
    yield _charts("Optimisation", curves.optimisation(run.metrics), frame)
    yield f"<h2>Timeline</h2>{timeline(run)}<details open><summary>Events</summary>{events_table(run)}</details>"
    yield f"<h2>Replaced samples</h2>{replaced(run.substitutions)}{_figures(curves.substituted(run.metrics), frame)}"
    yield f"<h2>Layout</h2>{layout(run)}"
    if run.config_text:
        yield f"<h2>Config</h2><details><summary>As it was resolved</summary><pre>{verbatim(run.config_text)}</pre></details>"


def _frame(run: Run) -> Frame:
    phases = tuple(accumulate(phase.steps for phase in run.config.schedule))[:-1] if run.config is not None else ()
    return Frame(first=0, last=max(steps_done(run) - 1, 1), phases=phases)


def _charts(title: str, charts: Iterable[Chart], frame: Frame, note: str = "") -> str:
    figures = _figures(charts, frame)
    told = f"<p class='note'>{note}</p>" if note else ""
    return f"<h2>{title}</h2>" + (f"{told}{figures}" if figures else "<p>Nothing was logged yet.</p>")


def _figures(charts: Iterable[Chart], frame: Frame) -> str:
    figures = "".join(figure(chart, frame) for chart in charts)
    return f"<div class='charts'>{figures}</div>" if figures else ""
