"""How quickly one rank does each kind of work: products, attention, and whole models' passes and updates."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.noise import noise_work
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import Precision, RunConfig, Task
from megatron_mplug2.parallel.device import device, on_gpu
from megatron_mplug2.parallel.topology import forget_groups
from megatron_mplug2.planner.rates import Curve
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.step import backward, validation_step

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
ROWS, WIDTHS = 512, (32, 64, 128, 256, 512, 1024)
"""Of products [rows, width] x [width, 2 width]; on a GPU rows and widths are 8 times as many."""
LENGTHS, TOKENS, HEADS, CHANNELS = (8, 16, 32, 64, 128, 256), 2048, 4, 32
"""Of sequences: so many tokens together, and heads of so many channels."""
MODELS, GPU_MODELS, SAMPLES = (96, 320), (512, 1280), 8
"""Widths of whole models."""
BUDGET_S, LEAST_RUNS, MOST_RUNS = 0.5, 10, 200


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Seconds of a whole model's pass over one microbatch, or of its update."""

    width: int
    task: Task
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """By one rank."""

    products: tuple[Curve, Curve]
    """Forward and backward, as all pairs here."""
    attention: tuple[Curve, Curve]
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    updates: tuple[tuple[int, float], ...]
    """(width, seconds)."""


def precision() -> Precision:
    return Precision.BF16 if on_gpu() else Precision.FP32


def widths() -> tuple[int, int]:
    return GPU_MODELS if on_gpu() else MODELS


def measure_rank() -> Found:
    """Everything that one rank does alone, while others may do the same."""
    models = [_model(width) for width in widths()]
    return Found(
        products=_curves([_product(width) for width in WIDTHS]),
        attention=_curves([_attention(length) for length in LENGTHS]),
        forward=tuple(one for model in models for one in model.forward),
        backward=tuple(one for model in models for one in model.backward),
        updates=tuple(model.update for model in models),
    )


@dataclass(frozen=True, kw_only=True)
class _Model:
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    update: tuple[int, float]


def _model(width: int) -> _Model:
    engine = make_engine(model_of_width(width))
    zeroed = quickest(engine.zero_gradients)
    forward, whole = [], []
    for task in (Task.TEXT, Task.VIDEO_TEXT):
        alone, both = _passes(engine, task)
        forward.append(Pass(width=width, task=task, seconds=alone))
        whole.append(Pass(width=width, task=task, seconds=both - alone - zeroed))
    updated = quickest(lambda: (engine.gradients_are_finite(), engine.update(0)))
    forget_groups()  # the next model makes its own
    return _Model(forward=tuple(forward), backward=tuple(whole), update=(width, zeroed + updated))


def _passes(engine: Engine, task: Task) -> tuple[float, float]:
    """Seconds of a forward pass without gradients, and of forward and backward."""
    work = noise_work(engine.config, task, 0, 0)
    return quickest(lambda: validation_step(engine, work)), quickest(lambda: backward(engine, work))


def model_of_width(width: int) -> RunConfig:
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
            "layout.data=1",
        ],
    )


def quickest(work: Callable[[], Any]) -> float:
    """Seconds of the quickest run; the first warms up. On a CPU they are the process's own: what else the machine does counts little."""
    clock = time.perf_counter if on_gpu() else time.process_time
    begin, seconds = time.perf_counter(), []
    for number in range(MOST_RUNS + 1):
        start = clock()
        work()
        if on_gpu():
            torch.cuda.synchronize()
        seconds.append(clock() - start)
        if number >= LEAST_RUNS and time.perf_counter() - begin > BUDGET_S:
            break
    return min(seconds[1:])


Timed = tuple[float, float, float]
"""Size, and seconds of operations forward and backward (two parts) that have it: (size, rate, rate)."""


def _product(width: int) -> Timed:
    rows, width = (8 * ROWS, 8 * width) if on_gpu() else (ROWS, width)
    x, weight = _drawn(rows, width), _drawn(2 * width, width)
    flops = 2 * rows * width * 2 * width
    return _both_ways(flops, flops, lambda: F.linear(x, weight), (x, weight))


def _attention(length: int) -> Timed:
    batch = TOKENS // length * (8 if on_gpu() else 1)
    queries, keys, values = (_drawn(batch, HEADS, length, CHANNELS) for _ in range(3))
    one = 4 * length**2 * HEADS * CHANNELS
    return _both_ways(one, one * batch, lambda: F.scaled_dot_product_attention(queries, keys, values), (queries, keys, values))


def _drawn(*shape: int) -> torch.Tensor:
    dtype = torch.bfloat16 if on_gpu() else torch.float32
    return torch.randn(shape, device=device(), dtype=dtype, requires_grad=True)


def _both_ways(size: float, flops: float, work: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor]) -> Timed:
    out = work()
    grad = torch.ones_like(out)
    back = quickest(lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True))
    return size, flops / quickest(work), 2 * flops / back


def _curves(timed: Sequence[Timed]) -> tuple[Curve, Curve]:
    return Curve(tuple((size, there) for size, there, _ in timed)), Curve(tuple((size, back) for size, _, back in timed))


def mean_of(found: Sequence[Found]) -> Found:
    """Of the ranks."""

    def curves(of: Callable[[Found], tuple[Curve, Curve]], way: int) -> Curve:
        points = [of(one)[way].points for one in found]
        return Curve(tuple((same[0][0], statistics.mean(rate for _, rate in same)) for same in zip(*points, strict=True)))

    def passes(of: Callable[[Found], tuple[Pass, ...]]) -> tuple[Pass, ...]:
        mean = [statistics.mean(one.seconds for one in same) for same in zip(*map(of, found), strict=True)]
        return tuple(Pass(width=one.width, task=one.task, seconds=seconds) for one, seconds in zip(of(found[0]), mean, strict=True))

    updates = zip(*(one.updates for one in found), strict=True)
    return Found(
        products=(curves(lambda one: one.products, 0), curves(lambda one: one.products, 1)),
        attention=(curves(lambda one: one.attention, 0), curves(lambda one: one.attention, 1)),
        forward=passes(lambda one: one.forward),
        backward=passes(lambda one: one.backward),
        updates=tuple((same[0][0], statistics.mean(seconds for _, seconds in same)) for same in updates),
    )
