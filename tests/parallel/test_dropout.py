"""Keyed dropout: masks by key, equal on tensor-parallel ranks where the tensor is replicated, different where it is sharded."""

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.parallel.dropout import LEVELS, KeyedDropout, draw_kept
from megatron_mplug2.parallel.topology import StageRoles, make_topology
from tests.ranks import run_ranks

ONES = torch.ones(64, 4, 8)


def _masks(layout: LayoutConfig) -> dict[str, torch.Tensor]:
    dropout = KeyedDropout(7, make_topology(layout, StageRoles()))
    dropout.start(3, 1, "text.layers.0")
    first, second = dropout.hidden(ONES, 0.5), dropout.hidden(ONES, 0.5)
    dropout.seed_draw(sharded=True)
    sharded = torch.rand(100)
    path = dropout.path(ONES, 0.5, samples=2)
    torch.rand(10)  # whatever else draws from the global generator
    dropout.start(3, 1, "text.layers.0")
    replayed = dropout.hidden(ONES, 0.5)
    dropout.start(3, 2, "text.layers.0")
    other = dropout.hidden(ONES, 0.5)
    return {"first": first, "second": second, "sharded": sharded, "path": path, "replayed": replayed, "other": other}


def test_masks_are_replayed_by_their_key_only() -> None:
    masks = run_ranks(1, _masks, LayoutConfig())[0]
    assert torch.equal(masks["first"], masks["replayed"])
    assert not torch.equal(masks["first"], masks["second"])
    assert not torch.equal(masks["first"], masks["other"])
    assert set(masks["first"].unique().tolist()) == {0.0, 2.0}
    assert 0.4 < float((masks["first"] == 0).float().mean()) < 0.6


def test_drop_path_takes_a_whole_sample() -> None:
    path = run_ranks(1, _masks, LayoutConfig())[0]["path"]
    assert all(len(path[:, columns].unique()) == 1 for columns in (slice(0, 2), slice(2, 4)))


def test_ranks_share_masks_of_replicated_tensors_only() -> None:
    first, second = run_ranks(2, _masks, LayoutConfig(tensor=2))
    assert torch.equal(first["first"], second["first"])
    assert torch.equal(first["path"], second["path"])
    assert not torch.equal(first["sharded"], second["sharded"])


def test_sequence_shards_have_masks_of_their_own() -> None:
    first, second = run_ranks(2, _masks, LayoutConfig(tensor=2, sequence_parallel=True))
    assert not torch.equal(first["first"], second["first"])
    assert torch.equal(first["path"], second["path"])


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked(probability: float) -> None:
    torch.manual_seed(0)
    kept, grown = draw_kept((100_000, 4), probability)
    # The four that share a number of 64 bits, each within five standard deviations, and each for itself.
    deviation = (probability * (1 - probability) / len(kept)) ** 0.5
    assert ((kept.double().mean(0) - (1 - probability)).abs() < 5 * deviation).all()
    assert torch.corrcoef(kept.T.double()).fill_diagonal_(0).abs().max() < 5 / len(kept) ** 0.5
    assert grown == pytest.approx(1 / (1 - probability), rel=1 / LEVELS / (1 - probability))


@pytest.mark.parametrize("size", [(), (3,), (5, 7, 3), (0, 4)])
def test_sizes_of_draws(size: tuple[int, ...]) -> None:
    kept, _ = draw_kept(size, 0.5)
    assert kept.shape == size
    assert kept.dtype is torch.bool


def test_ends_of_the_range() -> None:
    torch.manual_seed(0)
    kept, grown = draw_kept((1000,), 0.0)
    assert kept.all()
    assert grown == 1.0
    kept, grown = draw_kept((1000,), 0.9999999)
    assert kept.sum() <= 1
    assert grown == LEVELS


def test_hidden_states_keep_their_mean_and_precision() -> None:
    states = run_ranks(1, _dropped)[0]
    for dropped, original in states:
        assert dropped.dtype == original.dtype
        zeros = dropped == 0
        assert 0.08 < float(zeros.float().mean()) < 0.12
        torch.testing.assert_close(dropped[~zeros], (original / 0.9)[~zeros], rtol=1e-2, atol=0)


def _dropped() -> list[tuple[torch.Tensor, torch.Tensor]]:
    dropout = KeyedDropout(7, make_topology(LayoutConfig(), StageRoles()))
    dropout.start(0, 0, "text.layers.0")
    states = [torch.randn(64, 4, 16).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return [(dropout.hidden(x, 0.1), x) for x in states]
