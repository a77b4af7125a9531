"""What the decoder's cache saves: clips a second of the beam search with it, and of the same search over whole sequences, which projects
the memory's keys and values at every token and copies them for every beam.

    python -m benchmarks.generation

The decoder has the released depth and a small width, on random weights and visual tokens; encoding the clips is not counted.
Both take turns, so that whatever else the machine does hits both alike, and must find the same tokens.
"""

import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from benchmarks.record import spread, write
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import ModelConfig, TextConfig, VisionConfig
from megatron_mplug2.evaluation.generation.beam_search import beam_search
from megatron_mplug2.evaluation.generation.generate import generate
from megatron_mplug2.evaluation.generation.hypotheses import Hypotheses
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding
from megatron_mplug2.evaluation.inference import Inference, Memory
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.initialise import initialise
from megatron_mplug2.models.mplug2 import Stage, chain
from megatron_mplug2.models.weights import named_weights
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.topology import StageRoles, make_topology

MODEL = ModelConfig(
    vision=VisionConfig(width=64, blocks=1, heads=1, ffn=64, patch=16, resolution=224),
    text=TextConfig(hidden=128, heads=2, ffn=512, layers=3, vocab_size=30522, positions=64),
    fusion_layers=1,
    decoder_layers=12,
    init_std=0.1,
)
CLIPS, VISUAL_TOKENS, INSTRUCTION_TOKENS = 2, 4097, 8  # 16 frames of 224 pixels at patch 14
BEAMS, TOKENS = 5, 20
ROUNDS, WARMUP = 7, 1


def main() -> None:
    torch.set_num_threads(1)  # two of them wait for each other wherever something else runs
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        seconds = _measure(_model())
        dist.destroy_process_group()
    figures = {name: spread(times) for name, times in seconds.items()}
    for figure in figures.values():
        figure["clips_per_second"] = round(1000 * CLIPS / figure["median_ms"], 3)
    faster = round(figures["whole_sequences"]["median_ms"] / figures["with_cache"]["median_ms"], 1)
    case = {
        "clips_at_once": CLIPS,
        "memory_tokens": VISUAL_TOKENS + INSTRUCTION_TOKENS,
        "beams": BEAMS,
        "tokens": TOKENS,
        "decoder": {"layers": MODEL.decoder_layers, "width": MODEL.text.hidden, "vocabulary": MODEL.text.vocab_size},
    }
    path = write("generation", "python -m benchmarks.generation", case, {**figures, "times_faster": faster})
    for name, figure in figures.items():
        print(f"{name:16} {figure['clips_per_second']:8.2f} clips/s")
    print(f"{faster} times faster; written to {path}")


def _model() -> Inference:
    topology = make_topology(LayoutConfig(), StageRoles(ties=((0, 0), (0, 0))))
    context = ModelContext(config=MODEL, topology=topology, dropout=KeyedDropout(0, topology))
    stage = Stage(chain(MODEL), context)
    initialise(named_weights(stage, topology), MODEL, 0.07, 0, topology)
    return Inference(stage, context)


def _measure(inference: Inference) -> dict[str, list[float]]:
    length = VISUAL_TOKENS + INSTRUCTION_TOKENS
    tokens = torch.randn(length, CLIPS, MODEL.text.hidden, generator=torch.Generator().manual_seed(0))
    memory = Memory(tokens=tokens, keys=torch.ones(CLIPS, length, dtype=torch.bool))
    bounds = Bounds(min_length=TOKENS, max_length=TOKENS, start=101, end=102, pad=0)  # none ends early

    def whole_sequences() -> Hypotheses:
        return beam_search(lambda ids, parents: inference.next_logits(ids, memory), CLIPS, BEAMS, bounds, inference.device)

    def with_cache() -> Hypotheses:
        return generate(inference, memory, range(CLIPS), Decoding(beams=BEAMS), bounds)

    cases: dict[str, Callable[[], Hypotheses]] = {"with_cache": with_cache, "whole_sequences": whole_sequences}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(WARMUP + ROUNDS):
        found = []
        for name, case in cases.items():
            start = time.perf_counter()
            found.append(case().ids)
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - start)
        if not torch.equal(*found):
            raise RuntimeError("the cache changed what the search finds")
    return seconds


if __name__ == "__main__":
    main()
