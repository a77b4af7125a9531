"""What rank 0 shows and writes of a run: progress line, metrics.jsonl, TensorBoard, history. Other ranks only answer for their figures."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from megatron_mplug2.config.load import write_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.observability.efficiency import StepFlops, peak_tflops
from megatron_mplug2.observability.job_events import own_launch
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.metrics import StepMetrics, UseMetrics
from megatron_mplug2.observability.progress import TrainingProgress
from megatron_mplug2.observability.run_history import FINISHED, RunHistory
from megatron_mplug2.observability.run_summary import summary_line, write_summary
from megatron_mplug2.observability.sections import Section, SectionClock
from megatron_mplug2.observability.spent import Progress, SpentClock, Use, command_began
from megatron_mplug2.observability.stragglers import find_straggler, section_times
from megatron_mplug2.observability.throughput import Throughput
from megatron_mplug2.parallel.device import device, peak_memory_gb
from megatron_mplug2.parallel.topology import Topology
from megatron_mplug2.training.bad_steps import RolledBack
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.step import StepResult, StepWork


class Recorder:
    """A context around the training loop, on every rank."""

    def __init__(
        self,
        config: RunConfig,
        topology: Topology,
        stage_starts: Sequence[int],
        clock: SectionClock,
        first_step: int,
        health: HealthState,
    ) -> None:
        """`stage_starts`: where the chain is cut. `health`: of the checkpoint that the run goes on from.

        Raises OSError where rank 0 cannot write the run folder.
        """
        self._config, self._topology, self._clock = config, topology, clock
        self._samples = Throughput()
        self._flops, self._peak = StepFlops(config), peak_tflops(config)
        self._done, self._steps_left_out = first_step, health.steps_left_out
        self.productive_s = health.productive_s
        """As in `HealthState`, up to the last step."""
        self._time = SpentClock()
        self._wait_s = 0.0
        self._interval = _Interval()
        self._end = FINISHED
        self._open = ExitStack()
        self._speaks = topology.rank == 0
        if self._speaks:
            write_resolved(config, config.run_dir)
            self._history = RunHistory(config.run_dir)
            lost = self._history.started(
                first_step,
                config.layout,
                stage_starts,
                productive_s=self.productive_s,
                began=command_began(),
                launch=own_launch(os.environ),
            )
            self._log = self._open.enter_context(RunLog(config.run_dir, first_step))
            self._progress = self._open.enter_context(TrainingProgress(config.steps, first_step))
            if lost:
                self.note(f"{lost} steps after step {first_step} were lost by an earlier end, and are done again")

    def logs(self, step: int) -> bool:
        """Whether a step is written down: every `training.log_every`, and the last one."""
        return (step + 1) % self._config.training.log_every == 0 or step + 1 == self._config.steps

    def batch_arrived(self) -> None:
        """Call when the step's batch is there."""
        self._wait_s = time.monotonic() - self._time.mark

    def step(self, work: StepWork, result: StepResult, *, substituted: int) -> None:
        """Call when the step is done. `substituted`: bad samples so far. Collective over the world where the step is logged."""
        step_s = self._time.took(Use.STEPS)
        self._samples.add(self._config.training.global_batch)
        self._interval.add(step_s, self._flops.of(work.task, work.phase))
        self._done = work.step + 1
        if result.bad is None:
            self.productive_s += step_s
        metrics = StepMetrics(
            step=work.step,
            task=work.task,
            losses={objective.value: loss for objective, loss in result.values.losses.items()},
            grad_norm=result.grad_norm,
            lr=result.rate,
            temperature=result.values.temperature,
            samples_per_s=self._samples.per_second,
            data_wait_s=self._wait_s,
            step_s=step_s,
            substituted=substituted,
            bad=result.bad.reason if result.bad else None,
            module_grad_norms=result.norms.gradients if result.norms else {},
            module_weight_norms=result.norms.weights if result.norms else {},
        )
        if self._speaks:
            self._progress.update(metrics)
            if result.bad is not None:
                self._history.bad_step(work.step, result.bad.reason)
        if self.logs(work.step):
            self._write(metrics)
        self._time.took(Use.LOGGING)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Call when a validation is done."""
        self._time.took(Use.VALIDATION)
        if self._speaks:
            self._log.validation(step, values)
            self.note(f"validation after step {step + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))

    def saved(self, health: HealthState) -> None:
        """Call when a checkpoint was begun."""
        self._time.took(Use.CHECKPOINT)
        self._steps_left_out = health.steps_left_out
        if self._speaks:
            self._history.saving(self._done, self._progress_so_far())
            self._summary()

    def rolled_back(self, back: RolledBack) -> None:
        """Call after the bad step was told to `step`."""
        self._time.took(Use.CHECKPOINT)
        self.productive_s = back.productive_s
        if self._speaks:
            self._history.rolled_back(self._done, back.steps)

    def stopping(self, reason: str) -> None:
        """Why the run ends before its schedule does."""
        self._end = reason
        self.note(f"{reason} after step {self._done} of {self._config.steps}; the same command goes on from there")

    def ended(self, reason: str) -> None:
        """Writes the end down. Called at the context's end, or by the watchdog instead."""
        if self._speaks:
            self._history.ended(self._done, reason, self._progress_so_far())
            self.note(summary_line(self._summary()))

    def note(self, text: str) -> None:
        if self._speaks:
            self._progress.note(text)

    def _summary(self) -> dict[str, Any]:
        return write_summary(
            self._config.run_dir,
            step=self._done,
            steps=self._config.steps,
            productive_s=self.productive_s,
            steps_left_out=self._steps_left_out,
        )

    def _progress_so_far(self) -> Progress:
        return Progress(productive_s=self.productive_s, spent=self._time.spent)

    def _write(self, metrics: StepMetrics) -> None:
        ranks = self._everyones()
        interval, self._interval = self._interval, _Interval()
        if not self._speaks:
            return
        self._log.step(metrics)
        times = [{section: seconds / interval.steps for section, seconds in zip(Section, rank, strict=False)} for rank in ranks]
        tflops = interval.flops / interval.seconds / self._topology.world_size / 1e12
        use = UseMetrics(
            step=metrics.step,
            mfu=tflops / self._peak if self._peak else None,
            tflops=tflops,
            data_wait_share=max(rank[Section.DATA_WAIT] for rank in times) * interval.steps / interval.seconds,
            memory_gb=max(rank[len(Section)] for rank in ranks),
            sections=section_times(times),
        )
        self._log.use(use)
        straggler = find_straggler(times, [int(rank[-1]) for rank in ranks])
        if straggler is not None:
            self.note(f"{straggler}")

    def _everyones(self) -> list[list[float]]:
        """Of each rank: seconds by section since the last logged step, memory in GB, pipeline stage."""
        seconds = self._clock.take()
        own = torch.tensor([*seconds.values(), peak_memory_gb(), self._topology.pipeline_rank], dtype=torch.float64, device=device())
        ranks = [torch.empty_like(own) for _ in range(self._topology.world_size)]
        dist.all_gather(ranks, own)
        everyones: list[list[float]] = torch.stack(ranks).tolist()
        return everyones

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # a folder that cannot be written any more was told
            self.ended(self._end if error is None else f"{type(error).__name__}: {error}")
        self._open.close()


class _Interval:
    """What was done since the last logged step."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.flops = 0, 0.0, 0

    def add(self, seconds: float, flops: int) -> None:
        self.steps += 1
        self.seconds += seconds
        self.flops += flops
