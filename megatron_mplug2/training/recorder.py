"""What rank 0 shows and writes of a run: progress line, metrics.jsonl, TensorBoard. Other ranks keep quiet."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from megatron_mplug2.config.load import write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.metrics import StepMetrics
from megatron_mplug2.observability.progress import TrainingProgress
from megatron_mplug2.observability.throughput import Throughput
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.step import StepResult, StepWork


class Recorder:
    """A context around the training loop, on every rank."""

    def __init__(self, config: RunConfig, topology: Topology, first_step: int) -> None:
        self._config = config
        self._samples = Throughput()
        self._marked = time.monotonic()
        self._wait_s = 0.0
        self._open = ExitStack()
        self._speaks = topology.rank == 0
        if self._speaks:
            write_resolved(config, config.run_dir)
            self._log = self._open.enter_context(RunLog(config.run_dir, first_step))
            self._progress = self._open.enter_context(TrainingProgress(config.steps, first_step))

    def batch_arrived(self) -> None:
        """Call when the step's batch is there."""
        self._wait_s = time.monotonic() - self._marked

    def step(self, work: StepWork, result: StepResult, *, substituted: int) -> None:
        """Call when the step is done. `substituted`: bad samples so far."""
        now = time.monotonic()
        self._samples.add(self._config.training.global_batch)
        metrics = StepMetrics(
            step=work.step,
            task=work.task,
            losses={objective.value: loss for objective, loss in result.values.losses.items()},
            grad_norm=result.grad_norm,
            lr=result.rate,
            temperature=result.values.temperature,
            samples_per_s=self._samples.per_second,
            data_wait_s=self._wait_s,
            step_s=now - self._marked,
            substituted=substituted,
        )
        self._marked = now
        if not self._speaks:
            return
        self._progress.update(metrics)
        done = work.step + 1
        if done % self._config.training.log_every == 0 or done == self._config.steps:
            self._log.step(metrics)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        if self._speaks:
            self._log.validation(step, values)
            self.note(f"validation after step {step + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
        self._marked = time.monotonic()

    def note(self, text: str) -> None:
        if self._speaks:
            self._progress.note(text)
        self._marked = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
