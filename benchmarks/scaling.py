"""Writes `docs/scaling.md`: mPLUG-2 large and huge on up to 4,096 H200s by the planner, with the errors that it was found to have.

    mplug2 bench planner && mplug2 bench published && python -m benchmarks.scaling

Needs no GPU; every figure of the page comes from here and from `benchmarks/results/`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.published import DIFFERENCES, SOURCES
from benchmarks.record import RESULTS
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.layouts_command import CHECKPOINT_STALL_S, RESTART_S
from megatron_mplug2.planner.collectives import LINK_SHARE
from megatron_mplug2.planner.failures import LLAMA_3_NODE_HOURS, Reliability, best_interval, between_failures, effective_share
from megatron_mplug2.planner.hardware import GPUS, Cluster
from megatron_mplug2.planner.layouts import Option, compare_layouts

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"
GPU = GPUS["H200"]
COUNTS = (8, 64, 512, 4096)
NODE = 8
MODELS = ("large", "huge")
A_GPU = 32
"""Samples of a global batch a GPU, where that is more than the config's."""
PASS = 14e6 + 2.5e6
"""Pairs of the paper's corpora: COCO, Visual Genome, SBU, CC3M and CC12M's part, about 14 M pictures, and WebVid's 2.5 M clips."""
DAY = 86400.0


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    unfinished = PAGE.with_suffix(".md.tmp")
    unfinished.write_text("\n".join(_page()) + "\n", encoding="utf-8")
    unfinished.replace(PAGE)
    print(f"written to {PAGE}")


def _page() -> Iterator[str]:
    yield from ("# Large and huge on up to 4,096 GPUs", "")
    yield (
        "What `mplug2 plan --gpus` says of the two large models on nodes of 8 H200s. **No measurement on more than one GPU has checked "
        "it.** Further down is what was checked: the same model of step time against cores of a machine, and against two published studies."
    )
    yield from ("", "This page is written by `python -m benchmarks.scaling`.", "", *_assumptions(), "")
    yield from ("## The batch of the config", "")
    yield from ("1,024 samples a step however many GPUs: where a layout leaves a GPU a few samples, efficiency goes.", "")
    yield from (*_table(grown=False), "", f"## A batch that grows: {A_GPU} samples a GPU", "")
    yield "As many samples in fewer steps. What so large a batch does to learning is another question, not tried with this model."
    yield from ("", *_table(grown=True), "", *_checked_here(), "", *_checked_published())


def _assumptions() -> Iterator[str]:
    efficiency, run = GPU.efficiency, _run("large", None)
    samples = run.steps * run.training.global_batch
    yield (
        f"- GPU: {efficiency.compute:.0%} of the peak of 989 TFLOP/s in forward and backward passes ({efficiency.source}); "
        f"{efficiency.memory:.0%} of the memory's bandwidth; {LINK_SHARE:.0%} of the links' ({GPU.inside.name}, {GPU.outside.name}). "
        "They are data: `hardware.GPUS` in `megatron_mplug2/planner/hardware.py`."
    )
    yield (
        f"- Work: the schedule of `configs/pretrain/base.yaml`, {samples / 1e6:,.0f} M samples: the paper's 14 M pictures 10 times, then "
        "2.5 M clips of 8 frames 8 times with pictures and text beside them (mPLUG-2's own schedule is unpublished). A pass is all 16.5 M "
        "pairs once, at the schedule's mean rate."
    )
    yield (
        f"- Failures: a node fails every {LLAMA_3_NODE_HOURS:,.0f} h (Llama 3, Grattafiori et al. 2024), a checkpoint stalls training for "
        f"{CHECKPOINT_STALL_S:g} s, a restart takes {RESTART_S / 60:g} min; checkpoints come at the best interval (Daly 2006). What is "
        "left of the time is the column `trains`, and both times at the end of a row hold the loss."
    )


def _run(model: str, gpus: int | None) -> RunConfig:
    """With `gpus` the batch that grows, for as many samples in all."""
    path = ROOT / "configs" / "pretrain" / f"{model}.yaml"
    run = load_config(path, [])
    if gpus is None or A_GPU * gpus <= run.training.global_batch:
        return run
    return load_config(path, [f"training.global_batch={A_GPU * gpus}"])


COLUMNS = (
    "model",
    "H200s",
    "batch",
    "tensor x pipeline x data",
    "microbatches",
    "recompute",
    "samples/s",
    "MFU",
    "GB a GPU",
    "trains",
    "hours a pass",
    "days in all",
)


def _table(grown: bool) -> Iterator[str]:
    yield _row(COLUMNS)
    yield _row(["---"] * len(COLUMNS))
    for model in MODELS:
        for gpus in COUNTS:
            run = _run(model, gpus if grown else None)
            cluster = Cluster(gpu=GPU, gpus=gpus, node=NODE)
            options = compare_layouts(run, cluster, GPU.memory).options
            cells = _cells(options[0], cluster) if options else ["no layout shares the batch out"]
            yield _row([model, f"{gpus:,}", f"{run.training.global_batch:,}", *cells])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(option: Option, cluster: Cluster) -> list[str]:
    config, layout = option.config, option.config.layout
    base = _run(config.name, None)
    share = _training_share(cluster)
    rate = option.samples_per_second * share
    return [
        f"{layout.tensor} x {layout.pipeline} x {layout.data}",
        f"{config.microbatches} of {config.training.microbatch}",
        "full" if config.training.recompute else "none",
        f"{option.samples_per_second:,.0f}",
        f"{option.mfu:.1%}",
        f"{option.memory.total / 1e9:.0f}",
        f"{share:.1%}",
        f"{PASS / rate / 3600:.2g}",
        f"{base.steps * base.training.global_batch / rate / DAY:.2g}",
    ]


def _training_share(cluster: Cluster) -> float:
    mean = between_failures(3600 * LLAMA_3_NODE_HOURS, cluster.nodes)
    reliability = Reliability(between_failures=mean, stall=CHECKPOINT_STALL_S, restart=RESTART_S)
    return effective_share(reliability, best_interval(reliability))


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _checked_here() -> Iterator[str]:
    result = _result("planner")
    figures, hardware, goals = result["figures"], result["hardware"], result["figures"]["goals"]
    yield from ("## Against this machine", "")
    yield (
        f"`mplug2 bench planner`: after a calibration (`mplug2 bench calibrate`) on {hardware['cores']} cores ({hardware['cpu']}), one "
        f"thread a rank. Goals: step time within {goals['time']:.0%}, memory within {goals['memory']:.0%}. Largest errors: "
        f"{figures['largest_time_error']:.1%} of a layout's mean step on the wall, {figures['largest_processor_error']:.1%} of the seconds "
        f"of processor that its ranks' own threads use (without what exchanges take), "
        f"{figures['largest_memory_error']:.1%} of the peak of live tensor "
        "bytes. CPU ranks check what is summed, not a GPU's rates."
    )
    load = result["case"]["load_before"]
    if load > hardware["cores"] / 2:
        yield (
            f"\n**The machine's load was {load:.1f} when it began, for {hardware['cores']} cores: as far as other programs kept them busy, "
            "the times on the wall are theirs too. Measure again on a machine at rest.**"
        )
    columns = ["model and layout", "planned, ms", "measured, ms", "error", "by kind of step", "error in processor's time", "memory error"]
    yield from ("", _row(columns), _row(["---"] * len(columns)))
    for row in figures["layouts"]:
        tasks = ", ".join(f"{task} {found['error']:+.0%}" for task, found in row["tasks"].items())
        times = [f"{row['predicted_ms']:.0f}", f"{row['measured_ms']:.0f}", f"{row['time_error']:+.1%}"]
        yield _row([row["layout"], *times, tasks, f"{row['processor_error']:+.1%}", f"{row['memory_error']:+.1%}"])


def _checked_published() -> Iterator[str]:
    figures = _result("published")["figures"]
    yield from ("## Against published measurements", "", f"**{SOURCES['megatron']}.** {DIFFERENCES['megatron']}", "")
    yield from (_row(["H100s", "MFU published", "planned", "error"]), _row(["---"] * 4))
    for gpus, row in figures["megatron"].items():
        yield _row([f"{int(gpus):,}", f"{row['published_mfu']:.0%}", f"{row['planned_mfu']:.1%}", f"{row['error']:+.0%}"])
    yield from ("", f"**{SOURCES['nemo']}.** {DIFFERENCES['nemo']}", "")
    yield _row(["GPUs", "samples/s published", "planned", "error", "of linear, published", "planned"])
    yield _row(["---"] * 6)
    for gpu, rows in figures["nemo"].items():
        for gpus, row in rows.items():
            linear = [f"{row['published_of_linear']:.1%}", f"{row['planned_of_linear']:.1%}"]
            yield _row([f"{gpus} {gpu}", f"{row['published']:,}", f"{row['planned']:,.0f}", f"{row['error']:+.0%}", *linear])


if __name__ == "__main__":
    main()
