"""Counted activations of every unit against what autograd saves of a real forward pass."""

from dataclasses import replace

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.models.activations import kept_bytes
from megatron_mplug2.models.chain import Streams
from megatron_mplug2.models.microbatch import ContrastShare, Microbatch
from megatron_mplug2.models.shapes import batch_shape
from megatron_mplug2.objectives.result import Objective
from tests.models.build import LAYOUTS, build
from tests.models.test_flops import batch_of
from tests.ranks import run_ranks
from tests.training import cases

WIDE = cases.MODEL.model_copy(
    update={
        "vision": cases.MODEL.vision.model_copy(update={"width": 128, "ffn": 256}),
        "text": cases.MODEL.text.model_copy(update={"hidden": 192, "ffn": 256}),
    }
)
"""Wide enough for what is left out to be small."""
SMALL = 4096
"""Bytes: more than heads keep of features."""


def _saved(layout: LayoutConfig, task: Task) -> list[tuple[str, int, int]]:
    """(unit, bytes that autograd saved, ours) of the units that aren't idle."""
    config = cases.config(layout, model=WIDE)
    built = build(config.model, config.layout)
    cases.randomise(built.weights, built.topology)
    samples = cases.GLOBAL_BATCH
    shape = batch_shape(config, task, samples=samples, frames=cases.PHASE.frames, resolution=cases.PHASE.resolution)
    partner = torch.arange(samples).flip(0)
    zeros, one = torch.zeros(samples, config.model.contrastive_width), torch.zeros(())
    batch = batch_of(task)
    if isinstance(batch, PairBatch):
        batch = replace(batch, media=torch.randint(256, batch.media.shape, dtype=torch.uint8))  # type: ignore[union-attr]
    micro = Microbatch(
        batch=batch,
        step=0,
        index=0,
        objectives=config.objectives,
        divisors=dict.fromkeys(Objective, torch.tensor(1.0)),
        sequence=built.context.sequence,
        shape=shape,
        features_only=True,
        contrast=ContrastShare(image_for_text=partner, text_for_image=partner, vision_features=zeros, vision_grad=one),
    )
    outside = {weight.param.untyped_storage()._cdata for weight in built.weights}
    streams: Streams = {}
    counts = []
    for unit in built.stage.units:
        if unit.flow(task).idle:
            assert kept_bytes(unit, shape, config) == 0
            continue
        found: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor, found: dict[int, torch.UntypedStorage] = found) -> torch.Tensor:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage
            return tensor

        # As a block of its own: its streams come from outside.
        given = {name: streams[name].detach().requires_grad_() for name in unit.flow(task).reads}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            written = unit.run(built.stage.block(unit.name), given, micro)
        streams |= written
        known = outside | {tensor.untyped_storage()._cdata for tensor in (*given.values(), *written.values())}
        saved = sum(storage.nbytes() for name, storage in found.items() if name not in known)
        counts.append((unit.name, saved, kept_bytes(unit, shape, config)))
    return counts


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("layout", list(LAYOUTS.values()), ids=list(LAYOUTS))
def test_every_unit_is_counted_as_autograd_saves_it(layout: LayoutConfig, task: Task) -> None:
    for counts in run_ranks(layout.world_size, _saved, layout, task):
        wrong = [(name, theirs, ours) for name, theirs, ours in counts if abs(ours - theirs) > 0.03 * theirs + SMALL]
        assert wrong == []
