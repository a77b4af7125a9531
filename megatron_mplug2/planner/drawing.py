"""A simulated step as a page: a lane a stage, a block a piece of work, gaps where a stage waits."""

from collections.abc import Iterator
from pathlib import Path

from megatron_mplug2.observability.report.axis import Axis, inner_ticks, short
from megatron_mplug2.pages.markup import shown
from megatron_mplug2.pages.shell import page, replace_page
from megatron_mplug2.planner.schedule import Kind
from megatron_mplug2.planner.simulation import Event, Timeline

WIDTH, LANE, LEFT, RIGHT = 1160, 30, 70, 12
"""In pixels: the whole, a stage, the margins beside it."""
BLOCK = 22
SMALLEST_NAMED = 15
"""Width of a block under which its number has no room."""
STYLE = """
:root { --features: #7a7f87; --forward: #2f6db5; --backward: #d0660a; }
@media (prefers-color-scheme: dark) { :root { --features: #a3a9b1; --forward: #6ba5e8; --backward: #f0954a; } }
.schedule { width: 100%; height: auto; display: block; } .schedule text { font-size: 12px; fill: var(--faint); }
.schedule .number { fill: var(--paper); text-anchor: middle; } .schedule .tick { text-anchor: middle; }
.schedule path { stroke: var(--line); }
.schedule rect { stroke: var(--paper); stroke-width: 1; } .features { fill: var(--features); } .forward { fill: var(--forward); }
.backward { fill: var(--backward); } .key::before { content: ""; display: inline-block; width: 12px; height: 12px; margin-right: 5px;
  vertical-align: -1px; background: var(--c); } .key { margin-right: 16px; }
.key.features { --c: var(--features); } .key.forward { --c: var(--forward); } .key.backward { --c: var(--backward); }
"""


def write_timeline(out: Path, title: str, note: str, timeline: Timeline) -> None:
    """Raises UserError where the page cannot be written."""
    replace_page(out, page(shown(title), [f"<p>{shown(note, 1000)}</p>", *drawn(timeline)], STYLE))


def drawn(timeline: Timeline) -> Iterator[str]:
    """The drawing and its legend, in milliseconds."""
    axis = inner_ticks(0, 1e3 * timeline.duration, 10)
    height = LANE * timeline.stages + 40
    yield f'<div class="wide"><svg class="schedule" role="img" aria-label="Timeline of the step" viewBox="0 0 {WIDTH} {height}">'
    yield from _axis(axis, LANE * timeline.stages)
    for stage in range(timeline.stages):
        yield f'<text x="0" y="{LANE * stage + 19}">stage {stage}</text>'
    yield from (_block(axis, event) for event in timeline.events)
    yield "</svg></div><p>"
    kinds = {event.work.kind for event in timeline.events}
    yield from (f'<span class="key {kind}">{kind}</span>' for kind in Kind if kind in kinds)
    idle = f"{100 * timeline.idle:.1f} % of the stages' time is idle"
    yield f"numbers are microbatches; {idle}</p>"


def _x(axis: Axis, milliseconds: float) -> float:
    return LEFT + axis.place(milliseconds) * (WIDTH - LEFT - RIGHT)


def _axis(axis: Axis, bottom: int) -> Iterator[str]:
    for tick in axis.ticks:
        place = f"{_x(axis, tick):.1f}"
        yield f'<path d="M{place} 0V{bottom + 4}"/><text class="tick" x="{place}" y="{bottom + 18}">{short(tick)}</text>'
    yield f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) // 2}" y="{bottom + 36}">milliseconds since the begin of the step</text>'


def _block(axis: Axis, event: Event) -> str:
    left, right, top = _x(axis, 1e3 * event.begin), _x(axis, 1e3 * event.end), LANE * event.stage + (LANE - BLOCK) // 2
    work, width = event.work, right - left
    told = f"stage {event.stage}, {work.kind} of microbatch {work.microbatch}: {1e3 * event.begin:.2f} to {1e3 * event.end:.2f} ms"
    shape = f'x="{left:.2f}" y="{top}" width="{width:.2f}" height="{BLOCK}"'
    number = f'<text class="number" x="{(left + right) / 2:.1f}" y="{top + 15}">{work.microbatch}</text>' if width >= SMALLEST_NAMED else ""
    return f'<rect class="{work.kind}" {shape}><title>{told}</title></rect>{number}'
