"""What the person at the terminal sees of training: a live line, or a plain line now and then where there is no terminal."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from megatron_mplug2.observability.metrics import StepMetrics
from megatron_mplug2.observability.throughput import Throughput

PLAIN_EVERY_S = 10.0


class TrainingProgress:
    """A context for the training loop of rank 0; shows each objective's latest loss, since tasks alternate."""

    def __init__(self, total_steps: int, first_step: int = 0, console: Console | None = None) -> None:
        self._total = total_steps
        self._console = console or Console(stderr=True, highlight=False)
        self._steps = Throughput()
        self._losses: dict[str, float] = {}
        self._plain_after = 0.0
        self._live = Progress(
            TextColumn("step"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._line = self._live.add_task("", total=total_steps, completed=first_step)

    def update(self, metrics: StepMetrics) -> None:
        """Once a step."""
        self._steps.add(1)
        self._losses.update(metrics.losses)
        done = metrics.step + 1
        text = self._text(metrics, done)
        self._live.update(self._line, completed=done, description=text)
        if not self._console.is_terminal and (time.monotonic() >= self._plain_after or done == self._total):
            self._plain_after = time.monotonic() + PLAIN_EVERY_S
            self.note(f"step {done}/{self._total} {text}")

    def note(self, text: str) -> None:
        """A line that stays: a checkpoint, a validation."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _text(self, metrics: StepMetrics, done: int) -> str:
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in sorted(self._losses.items()))
        rate = self._steps.per_second
        left = timedelta(seconds=round((self._total - done) / rate)) if rate else "?"
        bad = f" | bad samples: {metrics.substituted}" if metrics.substituted else ""
        return f"{left} left | {metrics.samples_per_s:.1f} samples/s | {metrics.task.value:<10} {losses}{bad}"

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()
