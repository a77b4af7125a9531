"""Reads `metrics.jsonl`, of any length and as a kill, a full disk or a newer version may have left it."""

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.observability.last_step import METRICS_NAME
from megatron_mplug2.observability.report.series import Series
from megatron_mplug2.observability.run_history import MOST_STEPS

MOST_SERIES = 400
"""Names that are kept; a file with more was not written by a run."""
MOST_BAD_STEPS = 1000
_NUMBERS_BY_NAME = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
_KINDS = ("train", "use", "validation")
_TASKS = frozenset(Task)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    series: Mapping[str, Series]
    """By name: of a training step `loss/OBJECTIVE/TASK` and its other fields, `use/FIELD`, `section/NAME`, `slowest/NAME`,
    `validation/NAME`."""
    bad_steps: tuple[tuple[int, str], ...]
    """Step and reason of logged steps that made no update."""
    skipped: int
    """Lines that tell nothing."""

    def of(self, name: str) -> Series:
        """Empty where nothing was written under the name."""
        return self.series.get(name, Series.of([], []))

    def below(self, prefix: str) -> dict[str, Series]:
        """By what follows the prefix in their names."""
        return {name.removeprefix(prefix): series for name, series in self.series.items() if name.startswith(prefix)}

    @property
    def last_step(self) -> int | None:
        """Index of the last step that any line tells of."""
        return max((int(series.steps[-1]) for series in self.series.values() if len(series)), default=None)


def read_metrics(run_dir: Path) -> Metrics:
    """Without figures where there is no file. Raises OSError where it cannot be read."""
    found = _Found()
    path = run_dir / METRICS_NAME
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # else the run is writing it just now
                    found.add(line)
    return found.metrics()


@dataclass
class _Found:
    columns: "dict[str, tuple[array[int], array[float]]]" = field(default_factory=dict)
    bad_steps: dict[int, str] = field(default_factory=dict)
    skipped: int = 0

    def add(self, line: bytes) -> None:
        values = _object(line)
        step = values.pop("step", None)
        kind = values.pop("kind", None)
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MOST_STEPS or kind not in _KINDS:
            self.skipped += 1
            return
        for name, value in _named(str(kind), values).items():
            self._keep(name, step, value)
        if "bad" in values and len(self.bad_steps) < MOST_BAD_STEPS:
            self.bad_steps[step] = str(values["bad"])

    def _keep(self, name: str, step: int, value: object) -> None:
        number = _NUMBERS_BY_NAME.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            return
        if name not in self.columns:
            if len(self.columns) == MOST_SERIES:
                return
            self.columns[name] = array("q"), array("d")
        steps, values = self.columns[name]
        steps.append(step)
        values.append(_float(number))

    def metrics(self) -> Metrics:
        series = {name: Series.of(steps, values) for name, (steps, values) in self.columns.items()}
        return Metrics(series=series, bad_steps=tuple(sorted(self.bad_steps.items())), skipped=self.skipped)


def _object(line: bytes) -> dict[str, Any]:
    """Empty where the line is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _named(kind: str, values: dict[str, Any]) -> dict[str, object]:
    """What a line says, by the names of `Metrics.series`."""
    if kind == "validation":
        return {f"validation/{name}": value for name, value in values.items()}
    if kind == "use":
        return {f"use/{name}": value for name, value in values.items() if name != "sections"} | _sections(values.get("sections"))
    task = values.get("task")
    ending = f"/{task}" if task in _TASKS else ""
    return {f"{name}{ending}" if name.startswith("loss/") else name: value for name, value in values.items()}


def _sections(sections: object) -> dict[str, object]:
    named: dict[str, object] = {}
    for name, times in sections.items() if isinstance(sections, dict) else ():
        if isinstance(times, dict):
            named |= {f"section/{name}": times.get("median"), f"slowest/{name}": times.get("slowest")}
    return named


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # JSON has integers of any length
        return float("inf")
