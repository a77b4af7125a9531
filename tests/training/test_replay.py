"""Dropout on: the two passes of VLC, a recompute, and every cut and split of the batch replay the masks of one retained graph."""

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, ModelConfig
from megatron_mplug2.config.schema import RunConfig
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import GRADIENT, LOSS, WEIGHT
from tests.training.record import Record
from tests.training.test_equivalence import MIXED

MICROBATCHES = 4
NOISY = ModelConfig(
    vision=cases.MODEL.vision.model_copy(update={"drop_path": 0.4}),
    text=cases.MODEL.text.model_copy(update={"dropout": 0.2, "attention_dropout": 0.2}),
    fusion_layers=2,
    decoder_layers=2,
    contrastive_width=16,
)


def config(layout: LayoutConfig, recompute: tuple[Block, ...] = ()) -> RunConfig:
    return cases.config(layout, microbatch=cases.GLOBAL_BATCH // MICROBATCHES, model=NOISY, recompute=recompute)


@pytest.fixture(scope="module")
def retained() -> Record:
    return run_ranks(1, reference.run, config(LayoutConfig()), MIXED)[0]


@pytest.mark.parametrize(
    "layout",
    [
        LayoutConfig(),
        LayoutConfig(data=2),
        LayoutConfig(pipeline=2, stage_starts=(8,)),
        LayoutConfig(pipeline=4, stage_starts=(6, 9, 15)),
        LayoutConfig(pipeline=2, data=2, stage_starts=(12,)),
    ],
    ids=["one", "dp2", "pp2", "pp4", "pp2-dp2"],
)
@pytest.mark.parametrize("recompute", [(), tuple(Block)], ids=["none", "full"])
def test_masks_are_those_of_one_retained_graph(retained: Record, layout: LayoutConfig, recompute: tuple[Block, ...]) -> None:
    ranks = run_ranks(layout.world_size, record.run, config(layout, recompute), MIXED)
    for step, plain in enumerate(retained.steps):
        assert ranks[0].steps[step].losses == pytest.approx(plain.losses, abs=LOSS)
        gradients, weights = (record.merge(ranks, step, kind) for kind in ("gradients", "weights"))
        for name, gradient in gradients.items():
            assert float((gradient - plain.gradients[name]).abs().max()) <= GRADIENT * plain.grad_norm, name
            assert float((weights[name] - plain.weights[name]).abs().max()) <= WEIGHT, name


def test_dropout_changes_the_losses(retained: Record) -> None:
    plain = run_ranks(1, reference.run, cases.config(LayoutConfig(), microbatch=cases.GLOBAL_BATCH // MICROBATCHES), MIXED[:1])[0]
    assert abs(plain.steps[0].losses["mlm"] - retained.steps[0].losses["mlm"]) > 1e-3


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_replicated_weights_get_equal_gradients_on_tensor_parallel_ranks(sequence_parallel: bool) -> None:
    """They would not, if a replicated tensor had other masks on another rank; `merge` asserts it bit for bit."""
    layout = LayoutConfig(tensor=2, sequence_parallel=sequence_parallel)
    ranks = run_ranks(2, record.run, config(layout), MIXED)
    again = run_ranks(2, record.run, config(layout, tuple(Block)), MIXED)
    for step in range(len(MIXED)):
        gradients, replayed = (record.merge(runs, step, "gradients") for runs in (ranks, again))
        assert all(torch.allclose(gradients[name], replayed[name], atol=1e-6) for name in gradients)
