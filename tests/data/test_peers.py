"""Tensor-parallel ranks take the batches that the first of them reads."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.data.split import Split
from megatron_mplug2.errors import UserError
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
    rank = dist.get_rank()
    group = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    loader = make_loader(make_config(corpora[rank], run_dir, data__workers=1), rank // 2, Peers(group))
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
    loader = make_loader(make_config(corpus, run_dir), 0, Peers(dist.group.WORLD))
    with pytest.raises(UserError) as error:
        loaded(loader)
    return str(error.value)


def test_an_error_of_the_rank_that_reads_ends_all(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", images=8)  # a batch takes them all: none is left for a substitute
    tar = tmp_path / "corpus" / "image_text" / "00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    lines = set(run_ranks(2, line_on_rank, tmp_path / "corpus", tmp_path / "run"))
    assert len(lines) == 1 and "so are all 0 samples tried in its place" in lines.pop()
