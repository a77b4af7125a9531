"""A training step on clips with captions, forward, backward and update: ours against a plain PyTorch model of the same shapes, and both
against the rate at which this machine multiplies matrices, all in one run.

    python -m benchmarks.step [--model base] [--samples 2] [--frames 4] [--rounds 5]

On a CPU in fp32 with a thread a core, on a GPU in bf16. The two take turns. Operations count once, by the formulas of
`megatron_mplug2.models.flops`, whatever a program really does.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ceiling import matmul_tflops
from benchmarks.record import spread, write
from benchmarks.reference_model import ReferenceModel
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.batch import PairBatch, moved
from megatron_mplug2.observability.efficiency import StepFlops
from megatron_mplug2.parallel.device import backend, device, on_gpu
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.step import StepWork, train_step

CONFIGS = Path(__file__).parents[1] / "configs" / "pretrain"
TOKENS = 20
WARMUP = 2
OURS, REFERENCE = "ours", "reference"

Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", choices=("tiny", "base", "large"))
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    load = os.getloadavg()[0]
    dtype = torch.bfloat16 if on_gpu() else torch.float32
    before = matmul_tflops(dtype)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(asked, Path(folder))
        dist.init_process_group(backend(), init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        seconds = _take_turns({OURS: _ours(config), REFERENCE: _reference(config, dtype)}, asked.rounds)
        dist.destroy_process_group()
    ceiling = statistics.median([before, matmul_tflops(dtype)])
    figures = _figures(config, seconds, ceiling)
    command = f"python -m benchmarks.step --model {asked.model} --samples {asked.samples} --frames {asked.frames} --rounds {asked.rounds}"
    case = {
        "model": asked.model,
        "samples": asked.samples,
        "frames": asked.frames,
        "tokens": TOKENS,
        "resolution": config.schedule[0].resolution,
    }
    print(f"written to {write('step', command, case | {'rounds': asked.rounds, 'load_before': load}, figures)}")


def config_of(asked: argparse.Namespace, folder: Path) -> RunConfig:
    presets = {"tiny": ("demo", 32), "base": ("base", 224), "large": ("large", 224)}
    name, resolution = presets[asked.model]
    return load_config(
        CONFIGS / f"{name}.yaml",
        [
            f"run_dir={folder}",
            "objectives.vlc.weight=0",
            "objectives.vlm.weight=0",
            f"schedule=[{{steps: 1, video_text: 1, frames: {asked.frames}, resolution: {resolution}}}]",
            f"data.text_length={TOKENS}",
            f"data.target_length={TOKENS}",
            f"training.global_batch={asked.samples}",
            f"training.microbatch={asked.samples}",
            f"training.precision={'bf16' if on_gpu() else 'fp32'}",
            "training.recompute=none",
            f"objectives.vlm.group={asked.samples}",
            "objectives.lm.instructions=1",
            "optimizer.warmup_steps=0",
            "layout={tensor: 1, pipeline: 1, data: 1}",
        ],
    )


def batch_of(config: RunConfig) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    samples, phase = config.training.global_batch, config.schedule[0]
    shape = samples, 3, phase.frames, phase.resolution, phase.resolution
    ids = torch.arange(samples)
    tokens = [torch.randint(104, config.model.text.vocab_size, (samples, TOKENS), generator=generator) for _ in range(3)]
    return PairBatch(
        task=Task.VIDEO_TEXT,
        media=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        captions=tokens[0],
        instructions=tokens[1],
        targets=tokens[2],
        media_ids=ids,
        meaning_ids=ids,
        sample_ids=ids,
    )


def _ours(config: RunConfig) -> Step:
    engine, guard = make_engine(config), Guard(config, {})
    work = StepWork(step=0, task=Task.VIDEO_TEXT, phase=config.schedule[0], batches=[moved(batch_of(config), device())])
    return lambda: _done(train_step(engine, work, guard))


def _reference(config: RunConfig, dtype: torch.dtype) -> Step:
    model = ReferenceModel(config.model).to(device())
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-5, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=settings.weight_decay
    )
    batch = moved(batch_of(config), device())
    assert isinstance(batch, PairBatch) and batch.media is not None
    media, instructions, targets = batch.media.float() / 255, batch.instructions, batch.targets

    def step() -> None:
        with torch.autocast(device().type, dtype) if dtype is torch.bfloat16 else nullcontext():
            loss = model(media, instructions, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        _done(loss.item())

    return step


def _done(result: object) -> None:
    if on_gpu():
        torch.cuda.synchronize()


def _take_turns(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARMUP + rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _figures(config: RunConfig, seconds: dict[str, list[float]], ceiling: float) -> dict[str, Any]:
    samples, flops = config.training.global_batch, StepFlops(config).of(Task.VIDEO_TEXT, config.schedule[0])
    figures: dict[str, Any] = {"model_tflop_per_step": round(1e-12 * flops, 4), "matmul_ceiling_tflops": round(ceiling, 4)}
    figures["reference_tflop_per_step_by_torchs_counter"] = round(1e-12 * counted(config), 4)
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        share = 1e-12 * flops / middle / ceiling
        figures[name] = spread(taken) | {"samples_per_s": round(samples / middle, 3), "share_of_ceiling": round(share, 4)}
        print(f"{name:>10}  {1000 * middle:8.0f} ms  {samples / middle:7.3f} samples/s  {100 * share:5.1f} % of the ceiling")
    ratios = [theirs / own for own, theirs in zip(seconds[OURS], seconds[REFERENCE], strict=True)]
    figures["times_the_reference"] = round(statistics.median(ratios), 3)
    print(f"{figures['times_the_reference']} times the reference; ceiling {ceiling:.3f} TFLOP/s")
    return figures


def counted(config: RunConfig) -> int:
    """Operations of the reference's forward and backward pass."""
    batch = batch_of(config)
    assert batch.media is not None
    model = ReferenceModel(config.model).to(device())
    with FlopCounterMode(display=False) as counter:
        model(*(tensor.to(device()) for tensor in (batch.media.float() / 255, batch.instructions, batch.targets))).backward()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
