"""What the device shim costs on a CPU: a training step's forward and backward with the shim around Megatron-Core's schedule only (as it
is), around our own forward too, and without any shim (our modules and autograd alone).

    python -m benchmarks.device_shim

The three take turns step by step, so that whatever else the machine does hits all alike.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.record import spread, write
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.parallel import device
from megatron_mplug2.training import contrast, pipeline_stage
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.step import StepWork, backward, inline_solver, make_microbatches

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
OVERRIDES = ["layout.data=1", "training.global_batch=16"]  # one rank, one microbatch
ROUNDS, WARMUP = 40, 5


def main() -> None:
    config = load_config(CONFIG, OVERRIDES)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        seconds = _measure(make_engine(config), config)
        dist.destroy_process_group()
    medians = {name: spread(times) for name, times in seconds.items()}
    plain = medians["no_shim"]["median_ms"]
    ratios = {f"{name}_over_no_shim": round(figures["median_ms"] / plain, 3) for name, figures in medians.items()}
    path = write(
        "device_shim", "python -m benchmarks.device_shim", {"config": "configs/pretrain/demo.yaml", "set": OVERRIDES}, medians | ratios
    )
    for name, figures in medians.items():
        print(f"{name:24} {figures['median_ms']:8.2f} ms  ({figures['median_ms'] / plain:.3f} of no shim)")
    print(f"written to {path}")


def _measure(engine: Engine, config: RunConfig) -> dict[str, list[float]]:
    work = StepWork(step=0, task=Task.VIDEO_TEXT, phase=config.schedule[-1], batches=[_clips(config)])

    def shim_on_schedule() -> None:
        backward(engine, work)

    def shim_everywhere() -> None:
        setattr(pipeline_stage, "own_code", nullcontext)  # noqa: B010 (a stand-in of another type)
        backward(engine, work)
        setattr(pipeline_stage, "own_code", device.own_code)  # noqa: B010

    def no_shim() -> None:
        engine.ddp.zero_grad_buffer()
        (micro,) = make_microbatches(engine, work)
        micro.solver = inline_solver(engine, partial(contrast.solve, engine.config, engine.topology, work.step), micro)
        engine.stage({}, micro)
        torch.stack(micro.losses).sum().backward()

    cases: dict[str, Callable[[], None]] = {
        "shim_on_schedule_only": shim_on_schedule,
        "shim_on_forward_too": shim_everywhere,
        "no_shim": no_shim,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(WARMUP + ROUNDS):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _clips(config: RunConfig) -> PairBatch:
    """Random clips and texts in the shapes of the config."""
    samples, data, phase = config.training.microbatch, config.data, config.schedule[-1]
    answers, vocabulary = samples * config.objectives.lm.instructions, config.model.text.vocab_size
    return PairBatch(
        task=Task.VIDEO_TEXT,
        media=torch.randn(samples, 3, phase.frames, phase.resolution, phase.resolution),
        captions=torch.randint(5, vocabulary, (samples, data.text_length)),
        instructions=torch.randint(5, vocabulary, (answers, data.text_length)),
        targets=torch.randint(5, vocabulary, (answers, data.target_length)),
        media_ids=torch.arange(samples),
        meaning_ids=torch.arange(samples),
        sample_ids=torch.arange(samples),
    )


if __name__ == "__main__":
    main()
