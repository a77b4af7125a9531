"""Run folders as runs leave them, written by what writes them there, without a training."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from megatron_mplug2.config.load import load_config, write_resolved
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault, Substitution
from megatron_mplug2.evaluation.samples import ShownAnswer, ShownSample, encoded_frame
from megatron_mplug2.observability.log import RunLog
from megatron_mplug2.observability.metrics import StepMetrics, UseMetrics
from megatron_mplug2.observability.run_history import FINISHED, RunHistory
from megatron_mplug2.observability.run_summary import write_summary
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.observability.stragglers import SectionTime
from tests.observability.samples import metrics_of

DEMO = Path(__file__).parents[3] / "configs/pretrain/demo.yaml"
HOSTILE = "<script>document.title = 'taken'</script>\"><img src=x onerror=alert(1)>\u202esdrawkcab"
MODULES = ("vision", "temporal", "text", "universal", "fusion", "decoder", "heads")


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return load_config(DEMO, [f"run_dir={folder}", *overrides])


def write_steps(folder: Path, first: int, end: int, every: int = 10) -> None:
    """What steps of falling losses log, with a validation now and then."""
    with RunLog(folder, first) as log:
        for step in range(first + every - 1, end, every):
            log.step(step_of(step))
            log.use(use_of(step))
            if (step + 1) % 400 == 0:
                log.validation(step, {"video_text/loss/vlc": 1 / (step + 1), "video_text/retrieval/t2v_r1": 50.0})


def step_of(step: int) -> StepMetrics:
    task = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT)[step // 10 % 3]
    losses = {"mlm": 7 / (1 + step / 100), "lm": 6 / (1 + step / 50)} if task is Task.TEXT else {"vlc": 3 / (1 + step / 80), "lm": 2.0}
    norms = {module: 1.0 + place + math.sin(step) for place, module in enumerate(MODULES)}
    plain = metrics_of(step, task, substituted=step // 500, **losses)
    return replace(plain, module_grad_norms=norms, module_weight_norms={module: 10 + norm for module, norm in norms.items()})


def use_of(step: int) -> UseMetrics:
    shares = {Section.DATA_WAIT: 0.05, Section.FORWARD_BACKWARD: 0.3, Section.OPTIMIZER: 0.04}
    times = {section: SectionTime(median=seconds, slowest=2 * seconds, rank=1) for section, seconds in shares.items()}
    return UseMetrics(step=step, mfu=0.4, tflops=0.5, data_wait_share=0.1, memory_gb=1.5, sections=times)


def shown(task: Task, index: int, text: str) -> ShownSample:
    frame = encoded_frame(np.full((32, 32, 3), 40 * index % 255, np.uint8))
    answer = ShownAnswer(
        question=f"what moves? {text}", answer="a circle", said="a circle" if index % 2 else text, said_reversed="a square"
    )
    return ShownSample(
        task=task,
        index=index,
        key=f"sample-{index}-{text}",
        frames=(frame,) * (4 if task is Task.VIDEO_TEXT else 1),
        resolution=32,
        captions=(f"a small red circle moves left {text}",),
        said=f"a circle {text}" if task is Task.VIDEO_TEXT else None,
        answers=(answer,),
        text_place=1,
        media_place=2,
        gallery=256,
        found=f"a blue square {text}",
    )


def substitution(position: int, reason: str, text: str) -> Substitution:
    key = f"key-{position}-{text}"
    return Substitution(
        split=Split.TRAIN,
        task=Task.VIDEO_TEXT,
        corpus="0" * 64,
        dataset="web",
        shard="000001.tar",
        position=position,
        index=position,
        key=key,
        fault=Fault.CONTENT,
        reason=reason.replace("KEY", key),
        attempt=1,
        substitute=position + 1,
    )


def write_finished_run(folder: Path, *overrides: str, text: str = "") -> RunConfig:
    """Killed once, resumed, a bad step, bad samples, evaluated; `text` is in all texts of strangers."""
    config = config_of(folder, *overrides)
    write_resolved(config, folder)
    starts = [0] if config.layout.pipeline == 1 else [0, 9]
    RunHistory(folder).started(0, config.layout, starts)
    write_steps(folder, 0, 620)
    history = RunHistory(folder)
    history.started(600, config.layout, starts)
    write_steps(folder, 600, config.steps)
    history.saving(800)
    history.bad_step(900, f"a spike {text}")
    history.saving(config.steps)
    history.ended(config.steps, FINISHED)
    write_summary(folder, step=config.steps, steps=config.steps, productive_s=0.0, steps_left_out=1)
    Ledger(folder).write(tuple(substitution(position, f"the record of KEY is damaged {text}", text) for position in range(3)))
    results = {"step": config.steps, "qa": {"all": 97.3}, "retrieval": {"video": {"t2v": {"r1": 95.7, "chance_r1": 0.4}}}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    samples = [shown(task, index, text) for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT) for index in range(4)]
    (folder / "samples.jsonl").write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    return config
