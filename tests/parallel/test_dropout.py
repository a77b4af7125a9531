"""Keyed dropout: masks by key, equal on tensor-parallel ranks where the tensor is replicated, different where it is sharded."""

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.parallel.dropout import KeyedDropout
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
