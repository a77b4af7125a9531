"""The layout of a run: its pipeline stages with their blocks, parameters, and modelled share of the work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import prod

from megatron_mplug2.checkpoint.inspection import Contents
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.models.mplug2 import chain
from megatron_mplug2.models.workload import passes
from megatron_mplug2.observability.report.axis import short
from megatron_mplug2.observability.report.run_folder import Run
from megatron_mplug2.observability.run_history import Event
from megatron_mplug2.pages.markup import shown


@dataclass(frozen=True, kw_only=True)
class Block:
    """A unit of the chain, or several alike that follow one another."""

    name: str
    parameters: int | None
    """None where no checkpoint tells."""
    work: float
    """Share of the operations of the run's steps, all passes of all tasks."""


@dataclass(frozen=True, kw_only=True)
class StageOf:
    number: int
    ranks: range
    blocks: tuple[Block, ...]

    @property
    def work(self) -> float:
        return sum(block.work for block in self.blocks)

    @property
    def parameters(self) -> int | None:
        counts = [block.parameters for block in self.blocks if block.parameters is not None]
        return sum(counts) if counts else None


def stages(run: Run) -> list[StageOf]:
    """Of the last start. Empty where the config cannot be read, or nothing tells where the chain was cut."""
    config, starts = run.config, _starts(run)
    if config is None or starts is None:
        return []
    names = [unit.name for unit in chain(config.model)]
    costs = [sum(work) for work in zip(*([one.weight * cost for cost in one.costs] for one in passes(config)), strict=True)]
    counts = parameters_by_unit(run.contents, names) if run.contents is not None else None
    units = [
        Block(name=name, parameters=counts[name] if counts is not None else None, work=cost / (sum(costs) or 1))
        for name, cost in zip(names, costs, strict=True)
    ]
    ranks = config.layout.tensor * config.layout.data
    return [
        StageOf(number=number, ranks=range(number * ranks, (number + 1) * ranks), blocks=tuple(_alike(units[begin:end])))
        for number, (begin, end) in enumerate(pairwise([*starts, len(units)]))
    ]


def _starts(run: Run) -> list[int] | None:
    config = run.config
    assert config is not None
    began = [event for event in run.events if event["event"] == Event.START and "stage_starts" in event]
    written = began[-1]["stage_starts"] if began else None
    if isinstance(written, list) and all(isinstance(start, int) for start in written) and len(written) == config.layout.pipeline:
        return written
    if config.layout.stage_starts is not None:
        return [0, *config.layout.stage_starts]
    return [0] if config.layout.pipeline == 1 else None


def parameters_by_unit(contents: Contents, units: Sequence[str]) -> dict[str, int]:
    """Of every unit; a tied pair counts where its embedding is."""
    counts = dict.fromkeys(units, 0)
    for name, tensor in contents.weights().items():
        unit = next((unit for unit in units if name.startswith(f"{unit}.")), None)
        if unit is not None:
            counts[unit] += prod(tensor.size)
    return counts


def _alike(units: Sequence[Block]) -> Iterator[Block]:
    """Numbered units of one kind put together: vision.blocks.0 to vision.blocks.3 as "vision.blocks 0-3"."""
    for kind, group in groupby(units, key=_kind):
        members = list(group)
        first, last = members[0].name.rpartition(".")[2], members[-1].name.rpartition(".")[2]
        numbers = f" {first}" if len(members) == 1 else f" {first}–{last}"
        known = [member.parameters for member in members if member.parameters is not None]
        yield Block(
            name=kind if members[0].name == kind else f"{kind}{numbers}",
            parameters=sum(known) if known else None,
            work=sum(member.work for member in members),
        )


def _kind(unit: Block) -> str:
    kind, _, number = unit.name.rpartition(".")
    return kind if number.isdecimal() else unit.name


def layout(run: Run) -> str:
    """Markup."""
    config = run.config
    if config is None:
        return "<p>This version cannot read the config, so the layout is not known.</p>"
    found = stages(run)
    cards = "".join(_card(stage) for stage in found)
    note = (
        "<p class='note'>Work: modelled operations of the passes of all steps in the schedule. "
        "Parameters: of the newest checkpoint; word embeddings that a head shares count once.</p>"
    )
    return f"{_facts(config, run.contents)}<div class='stages'>{cards}</div>{note}" if found else _facts(config, run.contents)


def _facts(config: RunConfig, contents: Contents | None) -> str:
    layout, training = config.layout, config.training
    switches = {"sequence parallel": layout.sequence_parallel, "ZeRO-1": layout.shards_optimizer}
    facts: Mapping[str, str] = {
        "ranks": f"{layout.world_size} (tensor {layout.tensor} × pipeline {layout.pipeline} × data {layout.data})",
        "global batch": f"{training.global_batch} samples, microbatches of {training.microbatch}",
        "precision": training.precision,
        "recompute": ", ".join(training.recompute) or "none",
        "frozen": ", ".join(training.frozen) or "none",
        **{name: "on" if value else "off" for name, value in switches.items()},
    }
    if contents is not None:
        facts = {**facts, **{f"{shown(module)} parameters": short(count) for module, count in contents.parameters_by_module().items()}}
    return "<dl class='facts'>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()) + "</dl>"


def _card(stage: StageOf) -> str:
    parameters = f", {short(stage.parameters)} parameters" if stage.parameters is not None else ""
    ranks = f"rank {stage.ranks[0]}" if len(stage.ranks) == 1 else f"ranks {stage.ranks[0]}–{stage.ranks[-1]}"
    rows = "".join(
        f"<li><span>{shown(block.name)}</span><span class='count'>{'' if block.parameters is None else short(block.parameters)}</span>"
        f"<span class='bar' title='{100 * block.work:.1f} % of the work'><i style='width:{100 * block.work:.1f}%'></i></span></li>"
        for block in stage.blocks
    )
    return (
        f"<section class='stage'><h3>Stage {stage.number}</h3><p>{ranks}{parameters}, {100 * stage.work:.0f} % of the work</p>"
        f"<ul>{rows}</ul></section>"
    )
