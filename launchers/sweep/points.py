"""The points of a sweep: each layout of the product as a run of its own, or the reason why it cannot be one."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launchers.sweep.config import Recompute, Scaling, SweepConfig, read_sweep
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.node import Frozen
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

POINTS = "points"
"""Folder of the points' run folders, in the sweep's."""
_DIGITS = 12
"""Of a point's digest."""
_SHORT = ("optimizer.warmup_steps=0",)
"""What a run of few steps asks for in any config."""


class Layout(Frozen):
    """Where a point lies in the product."""

    nodes: int
    tensor: int
    pipeline: int
    data: int
    microbatch: int
    recompute: Recompute

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def name(self) -> str:
        return f"n{self.nodes}-t{self.tensor}-p{self.pipeline}-d{self.data}-mb{self.microbatch}-{self.recompute}"


@dataclass(frozen=True, kw_only=True)
class Point:
    layout: Layout
    run: RunConfig
    digest: str
    """Of the run's config without its folder: a result counts for the config that it was measured with, and no other."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A layout that cannot be a run."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    config: SweepConfig
    folder: Path
    """Absolute."""
    points: tuple[Point, ...]
    """Few ranks first."""
    skipped: tuple[Skipped, ...]


class _InfeasibleError(Exception):
    """Why there is no such point."""


def load_sweep(path: Path) -> Sweep:
    """Reads a sweep and checks every layout of it; runs none. Raises UserError where the file, or the run's config itself, is wrong."""
    config = read_sweep(path)
    base = load_config(config.config, [*config.overrides, *_SHORT])
    _check_base(path, config, base)
    memory_gb = _memory_gb(path, config)
    points, skipped = [], []
    for sizes in _product(config):
        try:
            points.append(_point(config, base, sizes, memory_gb))
        except _InfeasibleError as reason:
            skipped.append(Skipped(name=_name(sizes), reason=str(reason)))
    if not points:
        raise UserError(f"{path}: none of its {len(skipped)} layouts can be run; the first, {skipped[0].name}: {skipped[0].reason}")
    points.sort(key=lambda point: point.layout.ranks)
    return Sweep(config=config, folder=config.folder.resolve(), points=tuple(points), skipped=tuple(skipped))


def _check_base(path: Path, config: SweepConfig, base: RunConfig) -> None:
    if base.downstream is not None:
        raise UserError(f"{path}: {config.config} is finetuned (downstream.family={base.downstream.family}): a sweep takes a pretraining")
    tasks = [task for task in Task if base.schedule[0].share(task) > 0]
    if len(tasks) > 1:
        raise UserError(
            f"{path}: the first phase of {config.config} mixes {', '.join(tasks)}, whose steps are of different work, so that a median of "
            "them says little: give one task, such as 'schedule=[{steps: 1, video_text: 1, frames: 4, resolution: 224}]' in overrides"
        )


def _memory_gb(path: Path, config: SweepConfig) -> float | None:
    """Of a rank's GPU, in 10^9 bytes."""
    if config.gpu is None:
        return None
    from megatron_mplug2.models.memory_fit import GPU_GB

    if config.gpu not in GPU_GB:
        raise UserError(f"{path}: gpu={config.gpu} is not known, those are {', '.join(GPU_GB)}: name one of them, or leave it out")
    return GPU_GB[config.gpu]


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """One of the product, before it is known to be a layout."""

    nodes: int
    tensor: int
    pipeline: int
    data: int | None
    microbatch: int
    recompute: Recompute


def _product(config: SweepConfig) -> Iterator[_Sizes]:
    data: Sequence[int | None] = (None,) if config.data is None else config.data
    for nodes, tensor, pipeline, copies, microbatch, recompute in product(
        config.nodes, config.tensor, config.pipeline, data, config.microbatch, config.recompute
    ):
        yield _Sizes(nodes=nodes, tensor=tensor, pipeline=pipeline, data=copies, microbatch=microbatch, recompute=recompute)


def _name(sizes: _Sizes) -> str:
    data = "" if sizes.data is None else f"-d{sizes.data}"
    return f"n{sizes.nodes}-t{sizes.tensor}-p{sizes.pipeline}{data}-mb{sizes.microbatch}-{sizes.recompute}"


def _point(config: SweepConfig, base: RunConfig, sizes: _Sizes, memory_gb: float | None) -> Point:
    """Raises _InfeasibleError."""
    layout = _layout(config, sizes)
    run = _run(config, base, layout)
    if memory_gb is not None:
        _check_memory(run, memory_gb, str(config.gpu))
    digest = hashlib.sha256(run.model_dump_json().encode()).hexdigest()[:_DIGITS]
    place = config.folder.resolve() / POINTS / f"{layout.name}-{digest}"
    return Point(layout=layout, run=run.model_copy(update={"run_dir": place}), digest=digest)


def _layout(config: SweepConfig, sizes: _Sizes) -> Layout:
    """Raises _InfeasibleError where the ranks do not fill the nodes."""
    full, model = sizes.nodes * config.node_ranks, sizes.tensor * sizes.pipeline
    shape = f"{sizes.nodes} node{'s' if sizes.nodes > 1 else ''} of {config.node_ranks}"
    if sizes.data is None and full % model:
        raise _InfeasibleError(f"tensor {sizes.tensor} x pipeline {sizes.pipeline} does not divide the {full} ranks of {shape}")
    data = full // model if sizes.data is None else sizes.data
    ranks = model * data
    if ranks > full or (ranks < full and sizes.nodes > 1):
        raise _InfeasibleError(f"tensor {sizes.tensor} x pipeline {sizes.pipeline} x data {data} = {ranks} ranks do not fill {shape}")
    fields = {"nodes": sizes.nodes, "tensor": sizes.tensor, "pipeline": sizes.pipeline, "data": data}
    return Layout(**fields, microbatch=sizes.microbatch, recompute=sizes.recompute)


def _run(config: SweepConfig, base: RunConfig, layout: Layout) -> RunConfig:
    """The point's config, whose folder is still to be named. Raises _InfeasibleError where it isn't one that can run."""
    tree: dict[str, Any] = base.model_dump(mode="json")
    for section, changes in _changes(config, layout).items():
        tree[section] |= changes
    tree |= {"name": layout.name, "run_dir": POINTS, "schedule": [tree["schedule"][0] | {"steps": config.steps}]}
    errors: list[str] = []
    try:
        run = RunConfig.model_validate(tree, context=errors)
    except ValidationError as error:
        errors = [detail["msg"] for detail in error.errors()]
    if errors:
        raise _InfeasibleError(errors[0])
    return run


def _changes(config: SweepConfig, layout: Layout) -> Mapping[str, Mapping[str, Any]]:
    """By section. Every step is logged, for a median over steps; nothing interrupts them, and a checkpoint comes at the end alone."""
    batch = config.batch if config.scaling is Scaling.STRONG else config.batch * layout.data
    sizes = {"tensor": layout.tensor, "pipeline": layout.pipeline, "data": layout.data}
    seldom = {"log_every": 1, "validate_every": 0, "checkpoint_every": config.steps, "keep_every": 0}
    return {
        "layout": {**sizes, "sequence_parallel": layout.tensor > 1, "stage_starts": None},
        "training": {"global_batch": batch, "microbatch": layout.microbatch, "recompute": layout.recompute.value, **seldom},
    }


def _check_memory(run: RunConfig, limit_gb: float, gpu: str) -> None:
    """Raises _InfeasibleError where the model of a rank's memory says that it needs more than there is."""
    from megatron_mplug2.models.memory_fit import GB, most_loaded

    needed = most_loaded(run).total / GB
    if needed > limit_gb:
        raise _InfeasibleError(f"a rank needs about {needed:.1f} GB, and {gpu} has {limit_gb:g}")
