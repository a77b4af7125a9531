"""Bad samples where several ranks read the same ones: all see the same in their place, and one error ends all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.errors import UserError
from tests.data.bad_corpus import BAD, config_of, ids_of, make_corpus, make_loader, planned_ids, storage_fault
from tests.ranks import run_ranks


def load_on_rank(corpora: list[Path], run_dir: Path) -> tuple[list[list[int]], dict[str, Any]]:
    """One epoch in a world of data 2 x pipeline 2: ranks 0 and 1 have the vision encoder."""
    rank = dist.get_rank()
    schedule = [{"steps": 5, "image_text": 1.0, "resolution": 16}]
    config = config_of(corpora[rank], run_dir, training__microbatch=4, data__workers=rank % 2, schedule=schedule)
    ledger = Ledger(run_dir) if rank == 0 else None
    loader = make_loader(config, rank % 2, 2, needs_media=rank < 2, peers=Peers(dist.new_group()), ledger=ledger)
    ids = [batch.sample_ids.tolist() for _, (batch,) in loader]
    return ids, loader.state_after(4).model_dump(mode="json", exclude={"datasets"})  # the ranks' folders have different names


def test_all_ranks_of_a_replica_see_the_same_samples(tmp_path: Path) -> None:
    """Bad content is known to the ranks that decode; a damaged record hits rank 2 alone, a damaged picture rank 1 alone."""
    corpora = [make_corpus(tmp_path / f"node{rank}") for rank in range(4)]
    planned = planned_ids()[:5]
    hit = [next(one for one in planned[2][part] if one not in BAD) for part in (slice(4), slice(4, 8))]
    damage_record(corpora[2], hit[0])
    storage_fault(corpora[1], hit[1])
    (ids0, state0), (ids1, state1), (ids2, state2), (ids3, state3) = run_ranks(4, load_on_rank, corpora, tmp_path / "run")
    assert ids0 == ids2 and ids1 == ids3
    assert state0 == state1 == state2 == state3 and state0["substituted"] == 5
    assert sorted(one["index"] for one in state0["substitutions"]) == sorted(hit)
    for step, planned_step in enumerate(planned):
        for one, wanted in zip(ids0[step] + ids1[step], planned_step, strict=True):
            assert (one not in planned_step) if wanted in (*BAD, *hit) else one == wanted
    events = [json.loads(line) for line in (tmp_path / "run" / LEDGER).read_text().splitlines()]
    assert sorted(event["index"] for event in events) == sorted((*BAD, *hit))


def damage_record(corpus: Path, index: int) -> None:
    record = Manifest.load(corpus / "image_text").record(index).to_json()
    tar = next((corpus / "image_text").glob("*.tar"))
    tar.write_bytes(tar.read_bytes().replace(record, b"?" * len(record)))


def line_on_rank(corpora: list[Path], run_dir: Path) -> str:
    """The error that a pipeline of two ranks ends in; rank 0 has the vision encoder."""
    rank = dist.get_rank()
    loader = make_loader(config_of(corpora[rank], run_dir), needs_media=rank == 0, peers=Peers(dist.new_group()))
    with pytest.raises(UserError) as error:
        ids_of(loader)
    return str(error.value)


def test_a_rank_that_cannot_read_what_the_others_agreed_on(tmp_path: Path) -> None:
    corpora = [make_corpus(tmp_path / f"node{rank}") for rank in range(2)]
    alone = Ledger(tmp_path / "alone")
    ids_of(make_loader(config_of(corpora[0], tmp_path / "alone"), ledger=alone))
    damage_record(corpora[1], alone.events[0].substitute)
    lines = set(run_ranks(2, line_on_rank, corpora, tmp_path / "run"))
    assert len(lines) == 1 and lines.pop().startswith(f"a rank cannot read samples of step {alone.events[0].position // 8} ")


def test_an_error_on_one_rank_is_told_by_all(tmp_path: Path) -> None:
    corpora = [make_corpus(tmp_path / "node0", bad=tuple(range(40))), make_corpus(tmp_path / "node1")]
    lines = set(run_ranks(2, line_on_rank, corpora, tmp_path / "run"))
    assert len(lines) == 1 and "so are all 16 samples tried in its place" in lines.pop()
