"""Counted operations of every unit against torch's own counter on a real forward pass, and its attentions against those that it calls."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.flop_counter import flop_counter
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import IGNORED, Batch
from megatron_mplug2.models.chain import Streams
from megatron_mplug2.models.flops import Attention, unit_flops, unit_work
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.mplug2 import run_chain
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.objectives.result import Objective
from tests.models.build import build
from tests.ranks import run_ranks
from tests.training import cases

CONFIG = cases.config(LayoutConfig())
SAMPLES = cases.GLOBAL_BATCH


def batch_of(task: Task) -> Batch:
    """Of a text batch exactly the expected number of tokens is asked for."""
    if task is not Task.TEXT:
        return cases.pair_batch(0, task)
    batch = cases.text_batch(0)
    labels = torch.full(batch.labels.shape, IGNORED)
    labels.view(-1)[: round(labels.numel() * CONFIG.objectives.mlm.probability)] = 7
    return type(batch)(masked=batch.masked, labels=labels, prefix=batch.prefix, targets=batch.targets, sample_ids=batch.sample_ids)


class Attended:
    """Batch, queries, keys and width of all heads of each call of torch's attention."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[int, ...]] = Counter()
        self._attend = F.scaled_dot_product_attention

    def __call__(self, query: torch.Tensor, key: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        batch, heads, queries, width = query.shape
        self.seen[batch, queries, key.shape[2], heads * width] += 1
        return self._attend(query, key, *others, **named)


def _counted(task: Task, config: RunConfig) -> list[tuple[str, tuple[int, Counter[tuple[int, ...]]], tuple[int, Counter[tuple[int, ...]]]]]:
    """(unit, operations and attentions by torch, by us) of the units that aren't idle."""
    built = build(config.model, config.layout)
    cases.randomise(built.weights, built.topology)
    shape = batch_shape(config, task, samples=SAMPLES, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    partner = torch.arange(SAMPLES).flip(0)
    micro = Microbatch(
        batch=batch_of(task),
        step=0,
        index=0,
        objectives=config.objectives,
        divisors=dict.fromkeys(Objective, torch.tensor(1.0)),
        sequence=built.context.sequence,
        shape=shape,
        features_only=True,
        contrast=ContrastShare(image_for_text=partner, text_for_image=partner),
    )
    streams: Streams = {}
    counts = []
    for unit in run_chain(config):
        flow = unit.flow(task)
        if flow.idle:
            assert unit_flops(unit, shape, config) == 0
            continue
        # torch counts the attention of this backend by its matrix products, and the CPU's flash attention not at all.
        with flop_counter() as counter, sdpa_kernel(SDPBackend.MATH), pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "scaled_dot_product_attention", attended := Attended())
            streams |= unit.run(built.stage.block(unit.name), {name: streams[name] for name in flow.reads}, micro)
        ours = Counter(tuple(piece) for piece in unit_work(unit, shape, config) if isinstance(piece, Attention))
        counts.append((unit.name, (counter.get_total_flops(), attended.seen), (unit_flops(unit, shape, config), ours)))
    return counts


ALL = ("mlm", "vlc", "vlm", "lm")
PARTS = [(Task.TEXT, ("lm",)), (Task.VIDEO_TEXT, ("lm",)), (Task.IMAGE_TEXT, ("vlc",))]


@pytest.mark.parametrize(("task", "weighted"), [*((task, ALL) for task in Task), *PARTS])
def test_every_unit_is_counted_as_torch_counts_it(task: Task, weighted: tuple[str, ...]) -> None:
    """Also where objectives have no weight."""
    config = cases.only(CONFIG, weighted)
    (counts,) = run_ranks(1, _counted, task, config)
    assert [name for name, *_ in counts] == [unit.name for unit in run_chain(config) if not unit.flow(task).idle]
    assert [(name, theirs, ours) for name, theirs, ours in counts if theirs != ours] == []
    embeddings = {"text.embedding", "decoder.embedding"}
    handing_on = {"heads.matching", "heads.mlm"} if weighted == ("lm",) else set()
    assert {name for name, (theirs, _), _ in counts if theirs == 0} <= embeddings | {"vision.output"} | handing_on
