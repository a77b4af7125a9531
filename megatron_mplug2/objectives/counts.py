"""How many items each objective's loss is a mean of, from a batch alone: known before any forward pass."""

import torch

from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.data.batch import Batch, PairBatch, TextBatch
from megatron_mplug2.objectives.ids import pair_ids
from megatron_mplug2.objectives.instruction_lm import instruction_lm_count
from megatron_mplug2.objectives.masked_lm import masked_lm_count
from megatron_mplug2.objectives.negatives import valid_negatives
from megatron_mplug2.objectives.result import Objective


def local_counts(batch: Batch, config: ObjectivesConfig) -> dict[Objective, torch.Tensor]:
    """Items of each objective of the batch's task in one microbatch: masked tokens (MLM), samples (VLC), pairs (VLM), tokens or
    rows (LM), of which one may be a share of a question. Scalars on the batch's device: nobody waits for them.

    Summed over microbatches and data-parallel ranks they are the true global counts. One may be 0: its loss is 0 then. VLM
    without a weight counts nothing, since its groups need not fit the microbatch then.
    """
    shares = batch.shares if isinstance(batch, PairBatch) else None
    lm = instruction_lm_count(batch.targets, config.lm.averaging, shares)
    if isinstance(batch, TextBatch):
        return {Objective.MLM: masked_lm_count(batch.labels), Objective.LM: lm}
    ids = pair_ids(batch)
    samples = ids.new_full((), len(ids))
    pairs = samples + 2 * valid_negatives(ids, config.vlm.group).sum() if config.vlm.weight else torch.zeros_like(samples)
    return {Objective.VLC: samples, Objective.VLM: pairs, Objective.LM: lm}
