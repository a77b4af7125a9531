"""Tensor-parallel ranks take the batches that the first of them reads."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.peers import Peers, Sharing
from megatron_mplug2.data.split import Split
from megatron_mplug2.errors import UserError
from megatron_mplug2.parallel.topology import StageRoles, forget_groups, make_topology
from tests.data.corpus import make_config, write_corpus
from tests.ranks import run_ranks

Tensors = dict[str, torch.Tensor]


def tensors(batch: Batch) -> Tensors:
    return {field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)}


def loaded(loader: Loader) -> list[list[Tensors]]:
    return [[tensors(batch) for batch in batches] for _, batches in loader]


def make_loader(config: RunConfig, data_rank: int, peers: Peers | None) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=data_rank, data_size=2, needs_media=True, peers=peers)


def load_on_rank(corpora: list[Path], run_dir: Path) -> list[list[Tensors]]:
    """Data 2 x tensor 2, tensor fastest; on ranks that don't lead, all shards vanish before the first step."""
    topology = make_topology(LayoutConfig(tensor=2, data=2), StageRoles())
    rank, by_host = topology.rank, topology.tensor_host_group
    assert by_host is not None
    peers = Peers(topology.host_group, Sharing(host_group=by_host, device_group=topology.tensor_group))
    loader = make_loader(make_config(corpora[rank], run_dir, data__workers=1), topology.data_rank, peers)
    if rank % 2:
        for tar in corpora[rank].glob("*/*.tar"):
            os.truncate(tar, 0)
    return loaded(loader)


def test_ranks_that_do_not_lead_read_nothing_and_get_the_same(tmp_path: Path) -> None:
    corpora = [tmp_path / f"node{rank}" for rank in range(4)]
    for corpus in corpora:
        write_corpus(corpus)
    ranks = run_ranks(4, load_on_rank, corpora, tmp_path / "run")
    for rank, steps in enumerate(ranks):
        expected = loaded(make_loader(make_config(corpora[0], tmp_path / "run"), rank // 2, None))
        assert len(steps) == len(expected) == 14
        for step, wanted in zip(steps, expected, strict=True):
            for batch, same in zip(step, wanted, strict=True):
                assert batch.keys() == same.keys() and all(torch.equal(batch[name], same[name]) for name in same)


def line_on_rank(corpus: Path, run_dir: Path) -> str:
    everyone = dist.new_group()
    loader = make_loader(make_config(corpus, run_dir), 0, Peers(everyone, Sharing(host_group=everyone, device_group=everyone)))
    with pytest.raises(UserError) as error:
        loaded(loader)
    return str(error.value)


def test_an_error_of_the_rank_that_reads_ends_all(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", images=8)  # a batch takes them all, and the others of it are as bad
    tar = tmp_path / "corpus" / "image_text" / "00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    lines = set(run_ranks(2, line_on_rank, tmp_path / "corpus", tmp_path / "run"))
    assert len(lines) == 1 and "so are all 7 samples tried in its place" in lines.pop()


def found_on_rank() -> list[int]:
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    return Peers(pairs[dist.get_rank() // 2]).gather(dist.get_rank())


def test_they_talk_in_the_group_that_they_are_given() -> None:
    assert run_ranks(4, found_on_rank) == [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_host_does_not_wait_for_the_gpu(tmp_path: Path) -> None:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        topology = make_topology(LayoutConfig(), StageRoles())
        peers = Peers(topology.host_group, Sharing(host_group=topology.host_group, device_group=topology.tensor_group))
        torch.cuda.set_sync_debug_mode("error")  # what waits for the GPU raises
        found = peers.gather("found")
        step, media = peers.share("step", torch.ones(3))
        torch.cuda.set_sync_debug_mode("default")
        assert (found, step) == (["found"], "step") and media is not None and media.is_cuda and media.tolist() == [1, 1, 1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        dist.destroy_process_group()
        forget_groups()
