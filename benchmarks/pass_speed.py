"""How long whole models' passes and updates take on one rank, with whole layers and with layers that tensor parallelism splits."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from benchmarks.noise import noise_work
from benchmarks.quickest import quickest
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.parallel.device import on_gpu
from megatron_mplug2.parallel.topology import forget_groups
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.step import backward, validation_step

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
MODELS, GPU_MODELS, SAMPLES = (96, 320), (512, 1280), 8
"""Widths of whole models."""


class Layers(StrEnum):
    """How a model's layers lie on ranks: its layout.

    Split ones have kernels and calls of their own: Megatron-Core's autograd functions, biases apart from products, exchanges' buffers.
    """

    WHOLE = "{data: 1}"
    SPLIT = "{data: 1, tensor: 2}"
    SEQUENCE = "{data: 1, tensor: 2, sequence_parallel: true}"


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Seconds of a whole model's pass over one microbatch."""

    width: int
    task: Task
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Update:
    """Seconds of a whole model's update."""

    width: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Passes:
    """By one rank, on a CPU without the waits for exchanges."""

    layers: Layers
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    updates: tuple[Update, ...]


def precision() -> Precision:
    return Precision.BF16 if on_gpu() else Precision.FP32


def widths() -> tuple[int, int]:
    return GPU_MODELS if on_gpu() else MODELS


def measure_passes(layers: Layers) -> Passes:
    """On each rank of a world of the layout's size, while others may do the same."""
    models = [_model(width, layers) for width in widths()]
    return Passes(
        layers=layers,
        forward=tuple(one for model in models for one in model.forward),
        backward=tuple(one for model in models for one in model.backward),
        updates=tuple(one for model in models for one in model.updates),
    )


def _model(width: int, layers: Layers) -> Passes:
    engine = make_engine(model_of_width(width, layers))
    zeroed = quickest(engine.zero_gradients)
    forward, whole = [], []
    for task in (Task.TEXT, Task.VIDEO_TEXT):
        alone, both = _passes(engine, task)
        forward.append(Pass(width=width, task=task, seconds=alone))
        whole.append(Pass(width=width, task=task, seconds=both - alone - zeroed))
    updated = quickest(lambda: (engine.gradients_are_finite(), engine.update(0)))
    forget_groups()  # the next model makes its own
    return Passes(layers=layers, forward=tuple(forward), backward=tuple(whole), updates=(Update(width=width, seconds=zeroed + updated),))


def _passes(engine: Engine, task: Task) -> tuple[float, float]:
    """Seconds of a forward pass without gradients, and of forward and backward."""
    work = noise_work(engine.config, task, 0, 0)
    return quickest(lambda: validation_step(engine, work)), quickest(lambda: backward(engine, work))


def model_of_width(width: int, layers: Layers = Layers.WHOLE) -> RunConfig:
    """The demo's model, only wider or narrower, with one microbatch a step."""
    return load_config(
        CONFIG,
        [
            f"run_dir={tempfile.gettempdir()}",
            f"model.vision.width={width}",
            f"model.vision.ffn={4 * width}",
            f"model.text.hidden={width}",
            f"model.text.ffn={4 * width}",
            f"training.global_batch={SAMPLES}",
            f"training.microbatch={SAMPLES}",
            f"training.precision={precision()}",
            f"objectives.vlm.group={SAMPLES}",
            f"layout={layers}",
        ],
    )


def mean_passes(found: Sequence[Passes]) -> Passes:
    """Of the ranks."""

    def mean(every: Sequence[tuple[Pass, ...]]) -> tuple[Pass, ...]:
        return tuple(Pass(width=same[0].width, task=same[0].task, seconds=_mean(same)) for same in zip(*every, strict=True))

    updates = zip(*(one.updates for one in found), strict=True)
    return Passes(
        layers=found[0].layers,
        forward=mean([one.forward for one in found]),
        backward=mean([one.backward for one in found]),
        updates=tuple(Update(width=same[0].width, seconds=_mean(same)) for same in updates),
    )


def _mean(same: Sequence[Pass | Update]) -> float:
    return statistics.mean(one.seconds for one in same)
