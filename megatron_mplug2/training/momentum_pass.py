"""The pass of VLC with momentum encoders: a step's microbatches through the averaged weights, before their own forward pass."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from megatron_mplug2.models.microbatch import Microbatch
from megatron_mplug2.objectives.ids import pair_ids
from megatron_mplug2.objectives.key_queue import Keys
from megatron_mplug2.parallel.gather import gather_rows
from megatron_mplug2.training.interface import TrainingEngine


def momentum_keys(engine: TrainingEngine, micros: Sequence[Microbatch]) -> Keys | None:
    """The global batch's features by the averaged weights, in the order of the batch; None on stages that do not own them.

    Without dropout: what stays in the queue for many steps is then a function of weights and sample alone, of no draw and no layout.
    ALBEF and mPLUG leave it on. Collective over the stages up to the owner.
    """
    if engine.momentum is None:
        return None
    engine.stage.eval()
    with engine.momentum.in_place_of_weights():
        features = engine.run_features([replace(micro, features_only=True) for micro in micros])
    engine.stage.train()
    if engine.momentum.queue is None:
        return None
    vision, text = torch.stack(features).unbind(1)
    ids = torch.stack([pair_ids(micro.pair) for micro in micros])
    vision, text, ids = (_of_global_batch(rows, engine) for rows in (vision, text, ids))
    return Keys(vision=vision, text=text, ids=ids)


def _of_global_batch(rows: torch.Tensor, engine: TrainingEngine) -> torch.Tensor:
    """[M, b, ...] of this rank's microbatches -> [B, ...] of all ranks' in their order: every rank's first ones, then the second ones."""
    by_rank = gather_rows(rows, engine.topology.data_group).unflatten(0, (-1, len(rows)))
    return by_rank.transpose(0, 1).flatten(0, 2)
