"""Counts that are known before a forward pass: what the losses sum over afterwards, and additive over microbatches and ranks."""

import dataclasses
import math
from collections import Counter

import pytest
import torch

from megatron_mplug2.config.objectives import Averaging, LMConfig, ObjectivesConfig, VLMConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import IGNORED, PAD, PairBatch, TextBatch
from megatron_mplug2.objectives.counts import local_counts
from megatron_mplug2.objectives.ids import pair_ids
from megatron_mplug2.objectives.instruction_lm import instruction_lm_loss
from megatron_mplug2.objectives.masked_lm import masked_lm_loss
from megatron_mplug2.objectives.matching import matching_loss
from megatron_mplug2.objectives.negatives import valid_negatives
from megatron_mplug2.objectives.result import Objective

VOCAB, LENGTH, INSTRUCTIONS, GROUP = 20, 6, 2, 4


def config(averaging: Averaging = Averaging.SAMPLE, vlm_weight: float = 1.0) -> ObjectivesConfig:
    return ObjectivesConfig(lm=LMConfig(averaging=averaging, instructions=INSTRUCTIONS), vlm=VLMConfig(group=GROUP, weight=vlm_weight))


def ragged(rows: int) -> torch.Tensor:
    """[rows, LENGTH] of tokens, each row with 1 to LENGTH of them; row 0 has [CLS] alone."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, LENGTH + 1, (rows, 1), generator=generator).index_fill(0, torch.tensor(0), 1)
    tokens = torch.randint(1, VOCAB, (rows, LENGTH), generator=generator)
    return torch.where(torch.arange(LENGTH) < lengths, tokens, PAD)


def text_batch(rows: int) -> TextBatch:
    documents = ragged(rows)
    asked = torch.rand(rows, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.3
    asked[: rows // 4] = False
    labels = torch.where(asked & (documents != PAD), documents, IGNORED)
    return TextBatch(masked=documents, labels=labels, prefix=documents, targets=ragged(rows), sample_ids=torch.arange(rows))


def pair_batch(rows: int) -> PairBatch:
    media, meaning = torch.randint(0, 3, (2, rows), generator=torch.Generator().manual_seed(5))
    media[:GROUP] = 1
    return PairBatch(
        task=Task.IMAGE_TEXT,
        media=None,
        captions=ragged(rows),
        instructions=ragged(rows * INSTRUCTIONS),
        targets=ragged(rows * INSTRUCTIONS),
        media_ids=media,
        meaning_ids=meaning,
        sample_ids=torch.arange(rows),
    )


def rows_with_tokens(targets: torch.Tensor) -> int:
    return sum(any(token != PAD for token in row[1:]) for row in targets.tolist())


@pytest.mark.parametrize("averaging", list(Averaging))
def test_equal_what_the_losses_sum_over(averaging: Averaging) -> None:
    """Where nothing is known every item's loss is the same, so that a sum tells how many it is of; but the sum over a row's tokens, which
    counts once."""
    text, pair = text_batch(16), pair_batch(16)

    def items(targets: torch.Tensor) -> float:
        if averaging is Averaging.SUM:
            return rows_with_tokens(targets)
        return float(instruction_lm_loss(torch.zeros(LENGTH, len(targets), VOCAB), targets, averaging, VOCAB, None)) / math.log(VOCAB)

    masked = float(masked_lm_loss(torch.zeros(LENGTH, 16, VOCAB), text.labels, VOCAB, None)) / math.log(VOCAB)
    assert local_counts(text, config(averaging)) == pytest.approx({Objective.MLM: masked, Objective.LM: items(text.targets)})
    valid = valid_negatives(pair_ids(pair), GROUP)
    assert not valid.all() and valid.any()
    matched = float(matching_loss(torch.zeros(48, 2), valid)) / math.log(2)
    wanted = {Objective.VLC: 16, Objective.VLM: matched, Objective.LM: items(pair.targets)}
    assert local_counts(pair, config(averaging)) == pytest.approx(wanted)


def rows_of(pair: PairBatch, start: int, stop: int) -> PairBatch:
    samples, instructions = slice(start, stop), slice(start * INSTRUCTIONS, stop * INSTRUCTIONS)
    return dataclasses.replace(
        pair,
        captions=pair.captions[samples],
        instructions=pair.instructions[instructions],
        targets=pair.targets[instructions],
        media_ids=pair.media_ids[samples],
        meaning_ids=pair.meaning_ids[samples],
        sample_ids=pair.sample_ids[samples],
    )


def test_microbatches_add_up() -> None:
    pair, whole = pair_batch(16), Counter[Objective]()
    for start in range(0, 16, GROUP):
        whole.update(local_counts(rows_of(pair, start, start + GROUP), config()))
    assert whole == local_counts(pair, config())


def test_nothing_asked_counts_zero() -> None:
    text = text_batch(4)
    silent = dataclasses.replace(text, labels=torch.full_like(text.labels, IGNORED), targets=torch.zeros_like(text.targets))
    assert local_counts(silent, config()) == {Objective.MLM: 0, Objective.LM: 0}


def test_matching_without_weight_counts_nothing_and_needs_no_whole_groups() -> None:
    assert local_counts(pair_batch(GROUP + 1), config(vlm_weight=0.0))[Objective.VLM] == 0
    with pytest.raises(ValueError, match=r"objectives\.vlm\.group"):
        local_counts(pair_batch(GROUP + 1), config())
