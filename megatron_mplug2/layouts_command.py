"""What `mplug2 plan --gpus` prints: layouts of GPUs that are not here, compared by a model of their step time."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.wording import counted

if TYPE_CHECKING:
    from megatron_mplug2.planner.hardware import Cluster
    from megatron_mplug2.planner.layouts import Comparison, Option
    from megatron_mplug2.planner.step_time import StepModel

PRETRAINING = Path(__file__).parents[1] / "configs/pretrain"
"""In the checkout."""
BEST = 5
CHECKPOINT_STALL_S = 6.3
"""PyTorch's asynchronous checkpoint of a model of 7 B parameters (field figures of torch.distributed.checkpoint)."""
RESTART_S = 600.0
"""From a failure to the next step: an assumption."""

Rows = list[list[str]]


def chosen_config(config: Path | None, model: str | None, overrides: Sequence[str]) -> RunConfig:
    """Of a file, or of a model's name; then what stands in the file's place is an override. Raises UserError."""
    if model is None:
        if config is None:
            raise UserError("no config is named: give a CONFIG, or --model with one of " + ", ".join(_models()))
        return load_config(config, overrides)
    if model not in _models():
        raise UserError(f"--model {model} has no config in {PRETRAINING}: name one of {', '.join(_models())}, or give a CONFIG")
    return load_config(PRETRAINING / f"{model}.yaml", ([str(config)] if config is not None else []) + list(overrides))


def _models() -> list[str]:
    return sorted(file.stem for file in PRETRAINING.glob("*.yaml"))


def layout_lines(run: RunConfig, gpus: int, gpu: str | None, node: int, memory_gb: float | None, timeline: Path | None) -> Iterator[str]:
    """Raises UserError for an unknown GPU, before the first line where the page cannot be written, and after the reasons where no layout
    can be had."""
    from megatron_mplug2.planner.hardware import GB
    from megatron_mplug2.planner.layouts import compare_layouts

    cluster = _cluster(gpu, gpus, node, f"--gpus {gpus}")
    compared = compare_layouts(run, cluster, memory_gb * GB if memory_gb is not None else cluster.gpu.memory)
    if timeline is not None and compared.options:  # first, since it may be that it cannot be written
        _write_timeline(compared.options[0].config, compared.options[0].models, cluster, timeline)
    yield from _head(run, cluster)
    if compared.options:
        yield from _ranking(compared)
        yield from _best(compared.options[0])
        if cluster.gpu.measured is None:
            yield _failures(cluster)
    yield from _left_out(compared)
    if not compared.options:
        too_large = any(one.too_large for one in compared.left_out)
        advice = "take more or larger devices" if too_large else _other_sizes(run, gpus)
        raise UserError(f"no layout of {gpus} {cluster.gpu.name} can train {run.name}: see the reasons above; {advice}")
    if timeline is not None:
        yield f"wrote {timeline}"


def write_own_timeline(run: RunConfig, gpu: str | None, node: int, timeline: Path) -> None:
    """The simulated step of the config's own layout. Raises UserError for an unknown GPU, and where the page cannot be written."""
    from megatron_mplug2.models.partition import make_partition
    from megatron_mplug2.planner.step_time import step_models

    ranks = run.layout.world_size
    cluster = _cluster(gpu, ranks, node, f"--timeline {timeline}")
    if cluster.node % run.layout.tensor:
        raise UserError(f"layout.tensor={run.layout.tensor} does not divide a node's {cluster.node} GPUs: choose another --nodes-of")
    _write_timeline(run, step_models(run, cluster, make_partition(run)), cluster, timeline)


def _cluster(gpu: str | None, gpus: int, node: int, asked: str) -> "Cluster":
    from megatron_mplug2.planner.hardware import GPUS, Cluster
    from megatron_mplug2.planner.profile import gpu_of

    if gpu is None:
        raise UserError(f"{asked} needs --gpu: name one of {', '.join(GPUS)}, or a file of `mplug2 bench calibrate`")
    return Cluster(gpu=gpu_of(gpu), gpus=gpus, node=min(node, gpus))


def _head(run: RunConfig, cluster: "Cluster") -> Iterator[str]:
    from megatron_mplug2.planner.collectives import LINK_SHARE

    gpu, efficiency = cluster.gpu, cluster.gpu.efficiency
    rest = cluster.gpus % cluster.node
    nodes = f"{counted(cluster.nodes, 'node')} of {cluster.node}{f', the last with {rest}' if rest else ''}"
    links = f"{gpu.inside.name}, {gpu.outside.name}" if cluster.nodes > 1 else gpu.inside.name
    yield f"{run.name} on {cluster.gpus} {gpu.name} ({nodes}), global batch {run.training.global_batch}, {run.training.precision}"
    if gpu.measured is not None:
        yield "These times are a model's, from rates by kind of work that were measured on that machine; data is always there."
        return
    yield "These times are a model's, which no measurement on GPUs has checked yet: a first guess at what to measure."
    yield (
        f"Assumed: {efficiency.compute:.0%} of the peak in forward and backward passes, however small; "
        f"{LINK_SHARE:.0%} of the links' bandwidth ({links}); {efficiency.memory:.0%} of the memory's; data that is always there"
    )


def _ranking(compared: "Comparison") -> Iterator[str]:
    rows = [["tensor", "pipeline", "data", "microbatches", "recompute", "samples/s", "step ms", "MFU", "idle", "memory GB"]]
    for option in compared.options[:BEST]:
        layout, training = option.config.layout, option.config.training
        rows.append(
            [
                *map(str, (layout.tensor, layout.pipeline, layout.data)),
                f"{option.config.microbatches} of {training.microbatch}",
                "full" if training.recompute else "none",
                f"{option.samples_per_second:,.0f}",
                f"{1e3 * option.parts.total:.1f}",
                f"{option.mfu:.1%}",
                f"{option.idle:.1%}",
                f"{option.memory.total / 1e9:.1f}",
            ]
        )
    count = len(compared.options)
    yield from ("", f"the best {len(rows) - 1} of {count} layouts that fit, by the mean step of the schedule", *_columns(rows))


def _best(option: "Option") -> Iterator[str]:
    """Its parts, in time and in memory."""
    from megatron_mplug2.models.stage_memory import RankMemory
    from megatron_mplug2.planner.step_time import StepParts

    names = [field.name for field in fields(StepParts)]
    rows = [["kind of step", "steps", *names, "total"]]
    for model in option.models:
        values = [*(getattr(model.parts, name) for name in names), model.parts.total]
        rows.append([_kind(model), f"{model.share:.0%}", *(f"{1e3 * value:.2f}" for value in values)])
    yield from ("", "time of the best, ms", *_columns(rows))
    parts = [field.name for field in fields(RankMemory)]
    sizes = [*(getattr(option.memory, part) for part in parts), option.memory.total]
    yield from (
        "",
        "memory of the best, GB on the rank that needs most",
        *_columns([[*parts, "total"], [f"{size / 1e9:.2f}" for size in sizes]]),
    )


def _kind(model: "StepModel") -> str:
    frames = f" {model.shape.frames} frames" if model.shape.frames > 1 else ""
    return f"{model.shape.task}{frames}"


def _failures(cluster: "Cluster") -> str:
    from megatron_mplug2.planner.failures import LLAMA_3_NODE_HOURS, Reliability, best_interval, between_failures, effective_share

    mean = between_failures(3600 * LLAMA_3_NODE_HOURS, cluster.nodes)
    reliability = Reliability(between_failures=mean, stall=CHECKPOINT_STALL_S, restart=RESTART_S)
    interval = best_interval(reliability)
    return (
        f"\nfailures: one in {mean / 3600:,.1f} h if a node fails every {LLAMA_3_NODE_HOURS:,.0f} h (Llama 3); "
        f"with {CHECKPOINT_STALL_S:g} s a checkpoint and {RESTART_S / 60:g} min a restart, "
        f"checkpoints every {interval / 60:.0f} min lose least: {effective_share(reliability, interval):.1%} of the time trains"
    )


def _left_out(compared: "Comparison") -> Iterator[str]:
    if compared.left_out:
        yield from ("", "left out")
    for one in compared.left_out:
        yield f"  tensor {one.tensor} x pipeline {one.pipeline} x data {one.data}: {one.reason}"


def _other_sizes(run: RunConfig, gpus: int) -> str:
    """What to try where memory is no reason: the next numbers of GPUs that share the batch out, the next batches that can be."""
    from megatron_mplug2.planner.layouts import indivisible

    batch, unit = run.training.global_batch, indivisible(run)
    if batch % (gpus * unit) == 0:
        return "change what they name"
    shares = [count for count in range(1, batch // unit + 1) if batch % (count * unit) == 0]
    fewer, more = [count for count in shares if count < gpus], [count for count in shares if gpus < count <= 2 * gpus]
    whole = lcm(gpus * unit, run.training.microbatch * run.layout.data)  # the config's own layout is checked too
    batches = [size for size in (batch // whole * whole, (batch // whole + 1) * whole) if size]
    counts = [*fewer[-1:], *more[:1]]
    return "try " + (f"--gpus {_either(counts)}, or " if counts else "") + f"training.global_batch={_either(batches)}"


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _write_timeline(config: RunConfig, models: "Sequence[StepModel]", cluster: "Cluster", out: Path) -> None:
    """Of the kind of step that takes most of the run's time."""
    from megatron_mplug2.planner.drawing import write_timeline

    model, layout = max(models, key=lambda one: one.share * one.parts.total), config.layout
    microbatches = f"{config.microbatches} {'microbatch' if config.microbatches == 1 else 'microbatches'} of {config.training.microbatch}"
    measured = "from rates that were measured on that machine" if cluster.gpu.measured else "which no measurement on GPUs has checked yet"
    note = (
        f"Simulated: tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}, {microbatches}. "
        f"Times are a model's, {measured}."
    )
    write_timeline(out, f"{config.name} on {cluster.gpus} {cluster.gpu.name}: a step of {_kind(model)}", note, model.timeline)


def _columns(rows: Rows) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(
            [cell.ljust(width) if cell[:1].isalpha() else cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        ).rstrip()
