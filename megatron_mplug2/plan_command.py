"""The `mplug2 plan` command: what a config's ranks will do and need, told by one process that allocates nothing and reads no data."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError

if TYPE_CHECKING:
    from megatron_mplug2.config.schema import RunConfig
    from megatron_mplug2.models.partition import Partition
    from megatron_mplug2.models.shapes import BatchShape
    from megatron_mplug2.models.stage_plan import StepTimes

Rows = list[list[str]]


def plan(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/pretrain/base.yaml", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Config keys to set, such as layout.pipeline=4")
    ] = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show every pipeline stage: blocks, work, memory, messages")] = False,
    memory_gb: Annotated[float | None, typer.Option(min=0, help="Refuse a layout of which a rank needs more (10^9 bytes)")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Refuse a layout that does not fit into this GPU, such as A100, or machine")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A pretraining config of the checkout in CONFIG's place")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Compare the layouts of so many of --gpu by a model of their time")] = None,
    nodes_of: Annotated[int, typer.Option(min=1, help="GPUs of a node, for --gpus and --timeline")] = 8,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page to write with the simulated step, of the best layout with --gpus")
    ] = None,
) -> None:
    """Tell what a layout costs in memory and idle time, from sizes alone: no ranks, weights or data are needed.

    Exits with 2 where a rank needs more memory than there is, and names what would fit.
    """
    from megatron_mplug2.layouts_command import chosen_config, layout_lines, write_own_timeline

    if stages and gpus is not None:
        raise UserError("--stages shows the layout of one config, --gpus compares many: leave one of them out")
    run = chosen_config(config, model, overrides or [])
    if gpus is not None:
        for line in layout_lines(run, gpus, gpu, nodes_of, memory_gb, timeline):
            typer.echo(line)
        return

    from megatron_mplug2.models.memory_fit import check_memory
    from megatron_mplug2.models.partition import make_partition

    limits = [] if gpu is None else [(_memory_gb(gpu), gpu)]
    limits += [] if memory_gb is None else [(memory_gb, "a device")]
    partition = make_partition(run)
    if timeline is not None:  # first, since it may be that it cannot be written
        write_own_timeline(run, gpu, nodes_of, timeline)
    for line in (*_summary(run, partition), *(_details(run, partition) if stages else ())):
        typer.echo(line)
    if timeline is not None:
        typer.echo(f"wrote {timeline}")
    for limit, device in limits:
        check_memory(run, limit, device)


def _memory_gb(gpu: str) -> float:
    from megatron_mplug2.models.memory_fit import known_gpu_gb
    from megatron_mplug2.planner.profile import profile_of

    profile = profile_of(gpu)
    return known_gpu_gb(gpu) if profile is None else profile.memory / 1e9


def _summary(run: "RunConfig", partition: "Partition") -> Iterator[str]:
    from megatron_mplug2.models import stage_plan
    from megatron_mplug2.models.stage_memory import stage_memory

    layout, training = run.layout, run.training
    yield (
        f"{run.name} on {layout.world_size} ranks: tensor {layout.tensor} x pipeline {layout.pipeline} x data {layout.data}; "
        f"{run.microbatches} microbatches of {training.microbatch} samples a step"
    )
    memory = [stage.total for stage in stage_memory(run, partition)]
    yield f"memory: {max(memory) / 1e9:.1f} GB on a rank of stage {memory.index(max(memory))}, which needs most"
    if layout.pipeline > 1:
        others = (("of least mean load", stage_plan.mean_load_starts(run)), ("of even layers", stage_plan.even_starts(partition)))
        compared = ", ".join(f"at the cut {said} {stage_plan.pace(run, starts):.3f}" for said, starts in others)
        yield f"time: {stage_plan.pace(run, partition.starts):.3f} of what even stages would take; {compared}"


def _details(run: "RunConfig", partition: "Partition") -> Iterator[str]:
    from megatron_mplug2.models.stage_plan import step_times

    times = step_times(run, partition)
    shapes = [one.shape for one in times]
    yield from ("", *_columns(_blocks(run, partition)))
    yield from ("", "share of a stage in the operations of a kind of step", *_columns(_work(run, partition, times)))
    yield from ("", "memory of a rank, GB", *_columns(_memory(run, partition)))
    if run.layout.pipeline > 1:
        yield from ("", "messages between two ranks, MB a microbatch", *_columns(_messages(run, partition, shapes)))


def _blocks(run: "RunConfig", partition: "Partition") -> Rows:
    from megatron_mplug2.models.stage_weights import rank_elements, stage_weights

    rows = [["stage", "parameters", "blocks"]]
    for stage in range(run.layout.pipeline):
        parameters = sum(rank_elements(weight, 1) for weight in stage_weights(run.model, partition, stage))
        rows.append([str(stage), f"{parameters / 1e6:.1f} M", _named(partition, stage)])
    return rows


def _work(run: "RunConfig", partition: "Partition", times: "Sequence[StepTimes]") -> Rows:
    from megatron_mplug2.models.stage_plan import in_time, mixture

    rows = [["stage", *_kinds(run, [one.shape for one in times]), "all steps"]]
    for stage, mean in enumerate(mixture(times)):
        rows.append([str(stage), *(_percent(one.loads[stage] / sum(one.loads)) for one in times), _percent(mean)])
    if len(partition.starts) > 1:
        for said, parts in (("idle", [one.idle for one in times]), ("bubble", [one.bubble for one in times])):
            rows.append([said, *map(_percent, parts), _percent(in_time(times, parts))])
    return [*rows, ["steps", *(_percent(one.share) for one in times), _percent(1)]]


def _memory(run: "RunConfig", partition: "Partition") -> Rows:
    from megatron_mplug2.models.stage_memory import RankMemory, stage_memory

    parts = [field.name for field in fields(RankMemory)]
    rows = [["stage", "ranks", *parts, "total"]]
    size = run.layout.tensor * run.layout.data
    for stage, memory in enumerate(stage_memory(run, partition)):
        values = [*(getattr(memory, part) for part in parts), memory.total]
        ranks = f"{stage * size}-{(stage + 1) * size - 1}" if size > 1 else str(stage)
        rows.append([str(stage), ranks, *(f"{value / 1e9:.2f}" for value in values)])
    return rows


def _messages(run: "RunConfig", partition: "Partition", shapes: "Sequence[BatchShape]") -> Rows:
    from megatron_mplug2.models.stage_memory import message_bytes

    rows = [["after stage", *_kinds(run, shapes)]]
    for stage in range(run.layout.pipeline - 1):
        sent = [message_bytes(run, partition, partition.cut_after(stage), shape) for shape in shapes]
        rows.append([str(stage), *(" + ".join(f"{stream} {size / 1e6:.1f}" for stream, size in one.items()) or "nothing" for one in sent)])
    return rows


def _kinds(run: "RunConfig", shapes: "Sequence[BatchShape]") -> list[str]:
    """The tasks; of pairs with frames and the side of a frame in pixels, which tell phases apart."""
    from megatron_mplug2.config.schedule import Task

    sides = [f"{round(shape.patches**0.5) * run.model.vision.patch}px" for shape in shapes]
    sizes = {Task.TEXT: "", Task.IMAGE_TEXT: " {side}", Task.VIDEO_TEXT: " {shape.frames}x{side}"}
    return [shape.task + sizes[shape.task].format(shape=shape, side=side) for shape, side in zip(shapes, sides, strict=True)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _named(partition: "Partition", stage: int) -> str:
    """A stage's units, numbered ones of a kind together: "vision.embedding, vision.blocks 0-4"."""
    names = [unit.name.rpartition(".") for unit in partition.stage_units(stage)]
    said = []
    for (kind, numbered), units in groupby(names, lambda name: (name[0], name[2].isdecimal())):
        last = [unit[2] for unit in units]
        if numbered:
            said.append(f"{kind} {last[0]}-{last[-1]}" if len(last) > 1 else f"{kind} {last[0]}")
        else:
            said += [f"{kind}.{name}" for name in last]
    return ", ".join(said)


def _columns(rows: Rows) -> Iterator[str]:
    """To the left where the last row has words, to the right where it has a number."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [cell[0].isalpha() for cell in rows[-1]]
    for row in rows:
        cells = (cell.ljust(width) if words else cell.rjust(width) for cell, width, words in zip(row, widths, left, strict=True))
        yield "  ".join(cells).rstrip()
