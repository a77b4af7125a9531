"""Which charts a run has: what each shows, of which figures, in which unit."""

from collections.abc import Iterator, Mapping

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.observability.report.axis import Scale
from megatron_mplug2.observability.report.chart import Chart, Line, Style
from megatron_mplug2.observability.report.metrics_file import Metrics
from megatron_mplug2.observability.report.series import SMOOTHED_OVER, Series
from megatron_mplug2.observability.sections import Section

OBJECTIVES = {
    "mlm": "Masked language modelling",
    "vlc": "Vision-language contrast",
    "vlm": "Vision-language matching",
    "lm": "Instruction language modelling",
}
TASKS = {Task.TEXT: 0, Task.IMAGE_TEXT: 1, Task.VIDEO_TEXT: 2}
"""Colors, the same in all charts."""
_PLAIN, _TROUBLE = 0, 6
_COLORS = 10
"""Of the stylesheet."""
_SECTION_COLORS = {
    Section.DATA_WAIT: 1,
    Section.DRAWING: 6,
    Section.MEETING: 7,
    Section.FEATURE_PASS: 3,
    Section.FORWARD_BACKWARD: 0,
    Section.GRADIENT_REDUCTION: 5,
    Section.OPTIMIZER: 2,
    Section.LOGGING: 8,
    Section.VALIDATION: 4,
    Section.CHECKPOINT: 9,
    Section.START: 6,
}

HOW_TO_READ = (
    f"Bold: mean over a window of 1/{SMOOTHED_OVER} of the logged steps. Faint: as logged; a band from the smallest to the largest where "
    "there is much. Dots: validation split. Dashed: the next phase of the schedule begins."
)


def losses(metrics: Metrics) -> Iterator[Chart]:
    """A chart for each objective: a curve for each task that trains it, dots where it was measured on the validation split."""
    found = metrics.below("loss/")
    for objective in dict.fromkeys([*OBJECTIVES, *(name.partition("/")[0] for name in found)]):
        lines = []
        for task, color in TASKS.items():
            validation = metrics.of(f"validation/{task}/loss/{objective}")
            lines.append(Line(label=_words(task), color=color, series=metrics.of(f"loss/{objective}/{task}"), style=Style.SMOOTHED))
            lines.append(Line(label=f"{_words(task)}, validation", color=color, series=validation, style=Style.POINTS))
        name = OBJECTIVES.get(objective)
        yield Chart(title=f"{name} ({objective.upper()})" if name else objective, unit="cross-entropy (nats)", lines=tuple(lines))


def retrieval(metrics: Metrics) -> Iterator[Chart]:
    for way, title in (("t2v_r1", "Texts that find their picture or clip"), ("v2t_r1", "Pictures and clips that find their text")):
        found = {task: metrics.of(f"validation/{task}/retrieval/{way}") for task in TASKS}
        lines = (_line(_words(task), TASKS[task], series) for task, series in found.items())
        yield Chart(title=title, unit="recall at 1, validation split (%)", lines=tuple(lines))


def speed(metrics: Metrics) -> Iterator[Chart]:
    yield Chart(title="Throughput", unit="samples per second", lines=(_line("all ranks together", _PLAIN, metrics.of("samples_per_s")),))
    sections = metrics.below("section/")
    known = [section for section in Section if section in sections]
    areas = (Line(label=one, color=_SECTION_COLORS[one], series=sections[one], style=Style.AREA) for one in known)
    yield Chart(title="Time of a step by section", unit="seconds per step, median rank", lines=tuple(areas))
    yield Chart(
        title="Waiting for data",
        unit="share of the time (%)",
        lines=(_line("rank that waits longest", _PLAIN, metrics.of("use/data_wait_share").times(100)),),
    )
    yield Chart(
        title="Model FLOPs utilisation",
        unit="MFU (% of a device's peak)",
        lines=(_line("mean of the devices", _PLAIN, metrics.of("use/mfu").times(100)),),
    )
    yield Chart(title="Model operations", unit="model TFLOP/s of one device", lines=(_line("mean", _PLAIN, metrics.of("use/tflops")),))
    memory = _line("rank with the most", _PLAIN, metrics.of("use/memory_gb"))
    yield Chart(title="Memory", unit="gigabytes (10⁹ bytes)", lines=(memory,))


def optimisation(metrics: Metrics) -> Iterator[Chart]:
    norm = Line(label="all gradients", color=_PLAIN, series=metrics.of("grad_norm"), style=Style.SMOOTHED)
    yield Chart(title="Gradient norm", unit="L2 norm before clipping", lines=(norm,), scale=Scale.LOG)
    yield Chart(
        title="Gradient norm by module",
        unit="L2 norm before clipping",
        lines=_by_name(metrics.below("grad_norm/")),
        scale=Scale.LOG,
        note="Without the steps whose task leaves a module out, where it is zero",
    )
    weights = _by_name(metrics.below("weight_norm/"))
    yield Chart(title="Parameter norm by module", unit="L2 norm", lines=weights, scale=Scale.LOG)
    yield Chart(title="Learning rate", unit="rate, without group scales", lines=(_line("rate", _PLAIN, metrics.of("lr")),))
    temperature = _line("temperature", _PLAIN, metrics.of("temperature"))
    yield Chart(title="Temperature of the contrast", unit="divisor of the cosine", lines=(temperature,))


def substituted(metrics: Metrics) -> Iterator[Chart]:
    if metrics.of("substituted").values.any():
        yield Chart(title="Replaced samples", unit="samples so far", lines=(_line("replaced", _TROUBLE, metrics.of("substituted")),))


def _line(label: str, color: int, series: Series) -> Line:
    return Line(label=label, color=color, series=series)


def _by_name(found: Mapping[str, Series]) -> tuple[Line, ...]:
    return tuple(
        Line(label=name, color=place % _COLORS, series=series, style=Style.SMOOTHED) for place, (name, series) in enumerate(found.items())
    )


def _words(task: Task) -> str:
    return task.replace("_", "-")
