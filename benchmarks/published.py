"""The planner against published measurements on GPUs: Megatron-LM's strong scaling and NeMo's weak scaling of CLIP.

    mplug2 bench published

Neither is a model of this project. Each is described as nearly as a config can; `DIFFERENCES` says what is left. Needs no GPU.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import write
from megatron_mplug2.config.load import load_config
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.planner.hardware import GPUS, Cluster
from megatron_mplug2.planner.step_time import StepParts, mean_parts, step_models, utilisation

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "base.yaml"
NODE = 8
SOURCES = {
    "megatron": "Megatron-LM, README.md, 'Training Speed and Scalability': GPT-3 175B, batch 1,152, 96 to 4,608 H100s, MFU 47 % to 42 %",
    "nemo": "NVIDIA NeMo user guide, CLIP, 'Performance': g/14, samples/s on 1 to 16 nodes of 8 A100s and H100s (23.08)",
}
DIFFERENCES = {
    "megatron": (
        "The text encoder as wide and deep as GPT-3 on 2,048 tokens, with logits of 15 % of the tokens; layout tensor 8 x pipeline 12 and "
        "microbatches of 1 are assumed, the README does not name them. Theirs interleaves stages and overlaps tensor parallelism's sums "
        "with products; the planner's schedule does neither."
    ),
    "nemo": (
        "Contrastive loss alone; towers of g/14's widths, with this project's queries at the end of the vision tower. 80 samples a GPU "
        "(NeMo's configuration of H/14) and no recomputing are assumed. Theirs holds the loader too, and the H100s ran out of the box with "
        "the A100s' configuration: 21 % MFU, where the planner takes half of the peak. Only the share of linear scaling is comparable."
    ),
}
GPT_3 = (
    "model.text={hidden: 12288, heads: 96, ffn: 49152, layers: 96, positions: 2048, dropout: 0, attention_dropout: 0}",
    "model.vision={width: 768, blocks: 1, heads: 8}",
    "model.fusion_layers=1",
    "model.decoder_layers=1",
    "objectives.lm.weight=0",
    "schedule=[{steps: 1, text: 1}]",
    "data.document_length=2048",
    "training={global_batch: 1152, microbatch: 1, recompute: none}",
    "objectives.vlm.weight=0",
    "objectives.vlc.weight=0",
    "optimizer.warmup_steps=0",
)
MEGATRON_MFU = {96: 0.47, 4608: 0.42}
CLIP_BATCH = 80
CLIP = (
    "model.vision={width: 1408, blocks: 40, heads: 16, ffn: 6144, patch: 14}",
    "model.text={hidden: 1024, heads: 16, ffn: 4096, layers: 24}",
    "model.contrastive_width=1024",
    "objectives.mlm.weight=0",
    "objectives.vlm.weight=0",
    "objectives.lm.weight=0",
    "schedule=[{steps: 1, image_text: 1, resolution: 224}]",
    "data.text_length=77",
    "training.recompute=none",
    f"training.microbatch={CLIP_BATCH}",
    f"objectives.vlm.group={CLIP_BATCH}",
    "optimizer.warmup_steps=0",
)
NEMO_SAMPLES = {
    "A100": {8: 559, 16: 1115, 32: 2190, 64: 4407, 128: 8633},
    "H100": {8: 935, 16: 1795, 32: 3502, 64: 6771, 128: 13829},
}


@dataclass(frozen=True)
class Planned:
    parts: StepParts
    mfu: float
    samples_per_second: float


def main() -> None:
    figures: dict[str, Any] = {"megatron": strong_scaling(), "nemo": {gpu: weak_scaling(gpu) for gpu in NEMO_SAMPLES}}
    for gpus, row in figures["megatron"].items():
        print(
            f"GPT-3 175B on {gpus} H100: MFU {row['published_mfu']:.0%} published, {row['planned_mfu']:.1%} planned ({row['error']:+.0%})"
        )
    for gpu, rows in figures["nemo"].items():
        for gpus, row in rows.items():
            linear = f"of linear {row['published_of_linear']:.1%}, planned {row['planned_of_linear']:.1%}"
            print(
                f"CLIP g/14 on {gpus} {gpu}: {row['published']:,} samples/s, planned {row['planned']:,.0f} ({row['error']:+.0%}); {linear}"
            )
    case = {"sources": SOURCES, "differences": DIFFERENCES, "gpt_3": GPT_3, "clip": CLIP}
    print(f"written to {write('published', 'mplug2 bench published', case, figures)}")


def strong_scaling() -> dict[int, dict[str, float]]:
    """By GPUs."""
    rows = {}
    for gpus, published in MEGATRON_MFU.items():
        planned = _planned("H100", gpus, [*GPT_3, f"layout={{tensor: 8, pipeline: 12, data: {gpus // 96}, sequence_parallel: true}}"])
        rows[gpus] = {"published_mfu": published, "planned_mfu": round(planned.mfu, 4), "error": round(planned.mfu / published - 1, 3)}
    return rows


def weak_scaling(gpu: str) -> dict[int, dict[str, float]]:
    """By GPUs, in samples a second, and as the share of as many times what one node does."""
    rows, published = {}, NEMO_SAMPLES[gpu]
    node = 0.0
    for gpus, measured in published.items():
        overrides = [*CLIP, f"training.global_batch={CLIP_BATCH * gpus}", f"layout.data={gpus}"]
        planned = _planned(gpu, gpus, overrides).samples_per_second
        node = node or planned
        rows[gpus] = {
            "published": measured,
            "planned": round(planned, 1),
            "error": round(planned / measured - 1, 3),
            "published_of_linear": round(measured / published[NODE] * NODE / gpus, 4),
            "planned_of_linear": round(planned / node * NODE / gpus, 4),
        }
    return rows


def _planned(gpu: str, gpus: int, overrides: list[str]) -> Planned:
    config = load_config(CONFIG, [f"run_dir={tempfile.gettempdir()}", *overrides])
    cluster = Cluster(gpu=GPUS[gpu], gpus=gpus, node=NODE)
    models = step_models(config, cluster, make_partition(config))
    parts = mean_parts(models)
    return Planned(parts, utilisation(models, config, cluster), config.training.global_batch / parts.total)


if __name__ == "__main__":
    main()
