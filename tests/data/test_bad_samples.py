"""Bad samples in a run: what takes their place, on which ranks, and after a resume."""

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from megatron_mplug2.config.data import DatasetConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.interleave import training_order
from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.data.quarantine import RETRY_PAUSES_S
from megatron_mplug2.data.sampler import Sampler
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.substitution import Fault
from megatron_mplug2.errors import UserError
from tests.data.corpus import make_config, pair, picture, write_corpus, write_stream
from tests.ranks import run_ranks

BAD = (3, 11, 12)
SCHEDULE = [{"steps": 10, "image_text": 1.0, "resolution": 16}]


def make_corpus(folder: Path, bad: tuple[int, ...] = BAD, size: int = 40) -> Path:
    write_corpus(folder, texts=1, images=1, videos=1)
    shutil.rmtree(folder / "image_text")
    samples = [pair(number, b"damaged %d" % number if number in bad else picture(number)) for number in range(size)]
    write_stream(folder / "image_text", MediaKind.IMAGE, samples)
    return folder


def config_of(corpus: Path, run_dir: Path, **changes: Any) -> RunConfig:
    return make_config(corpus, run_dir, **{"schedule": SCHEDULE, **changes})


def make_loader(config: RunConfig, data_rank: int = 0, data_size: int = 1, **arguments: Any) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=data_rank, data_size=data_size, **{"needs_media": True, **arguments})


def ids_of(loader: Loader) -> list[list[int]]:
    """Sample ids of each step."""
    return [[int(one) for batch in batches for one in batch.sample_ids] for _, batches in loader]


def planned_ids(size: int = 40) -> list[list[int]]:
    drawn = Sampler(seed=5, task=Task.IMAGE_TEXT, size=size).at(np.arange(80)).indices
    return drawn.reshape(10, 8).tolist()


def test_bad_content_is_replaced_and_written_down(tmp_path: Path) -> None:
    config = config_of(make_corpus(tmp_path / "corpus"), tmp_path / "run")
    loader = make_loader(config, ledger=Ledger(config.run_dir))
    got = ids_of(loader)
    events = [json.loads(line) for line in (config.run_dir / LEDGER).read_text().splitlines()]
    by_position = {event["position"]: event for event in events}
    for step, (ids, planned) in enumerate(zip(got, planned_ids(), strict=True)):
        for place, (one, wanted) in enumerate(zip(ids, planned, strict=True)):
            position = 8 * step + place
            if wanted not in BAD:
                assert one == wanted and position not in by_position
                continue
            assert one not in planned and one not in BAD
            event = by_position.pop(position)
            assert (event["index"], event["key"], event["substitute"]) == (wanted, f"pair-{wanted:04d}", one)
            assert (event["dataset"], event["shard"]) == ("image_text", "00000.tar")
            assert event["fault"] == "content" and event["reason"].startswith("not a readable picture")
        assert len(set(ids)) == 8
    assert not by_position and len(events) == 6  # three in each of two epochs
    assert loader.state_after(9).substituted == 6 and loader.state_after(9).substitutions == ()


def test_layout_workers_and_resume_give_the_same_substitutes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    whole = ids_of(make_loader(config_of(corpus, tmp_path, training__microbatch=8)))
    assert whole == ids_of(make_loader(config_of(corpus, tmp_path, training__microbatch=8, data__workers=2)))
    ranks = [ids_of(make_loader(config_of(corpus, tmp_path, training__microbatch=4), rank, 2)) for rank in range(2)]
    assert whole == [first + second for first, second in zip(*ranks, strict=True)]
    first = make_loader(config_of(corpus, tmp_path, training__microbatch=8))
    begun = [next(steps)[1][0].sample_ids.tolist() for steps in [iter(first)] for _ in range(4)]
    resumed = make_loader(config_of(corpus, tmp_path, training__microbatch=8), start_step=4, state=first.state_after(3))
    assert whole == begun + ids_of(resumed)
    assert resumed.state_after(9).substituted == 6


def test_a_rank_without_media_finds_the_same_alone(tmp_path: Path) -> None:
    config = config_of(make_corpus(tmp_path / "corpus"), tmp_path / "run")
    assert ids_of(make_loader(config)) == ids_of(make_loader(config, needs_media=False))


def test_too_many_bad_samples_stop_the_run(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", bad=tuple(range(0, 40, 5)))
    config = config_of(corpus, tmp_path / "run", data__bad_sample_limit=0.05, schedule=[{"steps": 40, "image_text": 1.0, "resolution": 16}])
    loader = make_loader(config, ledger=Ledger(config.run_dir))
    steps = iter(loader)
    assert len([next(steps) for _ in range(12)]) == 12  # 96 samples: fewer than 100 don't count
    with pytest.raises(UserError, match=r"of 104 samples of data.train were bad .*data.bad_sample_limit=0.05: .*quarantine.jsonl"):
        next(steps)
    assert (config.run_dir / LEDGER).is_file()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_corpus_stops_the_run(tmp_path: Path, workers: int) -> None:
    config = config_of(make_corpus(tmp_path / "corpus", bad=tuple(range(40))), tmp_path / "run", data__workers=workers)
    with pytest.raises(UserError, match=r"pair-\d+ of data.train.image_text is bad .* so are all 16 samples tried in its place") as error:
        next(iter(make_loader(config)))
    assert "\n" not in str(error.value)


def in_all_layouts(config_with: Callable[..., RunConfig]) -> list[list[int]]:
    """The ids of a run, which are the same over workers, data-parallel ranks and a resume from each of its steps."""
    whole = ids_of(make_loader(config_with(training__microbatch=8)))
    assert whole == ids_of(make_loader(config_with(training__microbatch=8, data__workers=2)))
    ranks = [ids_of(make_loader(config_with(training__microbatch=2), rank, 4)) for rank in range(4)]
    assert whole == [[*chain.from_iterable(parts)] for parts in zip(*ranks, strict=True)]
    first = make_loader(config_with(training__microbatch=8))
    for step, _ in enumerate(first):
        resumed = make_loader(config_with(training__microbatch=8), start_step=step + 1, state=first.state_after(step))
        assert whole[step + 1 :] == ids_of(resumed)
    return whole


def in_use(ids: list[list[int]], planned: list[list[int]], bad: set[int]) -> list[int]:
    """What took the places of the bad ones, where all others are as planned."""
    assert all(
        one == wanted for row, plan in zip(ids, planned, strict=True) for one, wanted in zip(row, plan, strict=True) if wanted not in bad
    )
    return [one for row, plan in zip(ids, planned, strict=True) for one, wanted in zip(row, plan, strict=True) if wanted in bad]


@pytest.mark.parametrize("size", [5, 8, 9])
def test_a_dataset_no_larger_than_the_batch(tmp_path: Path, size: int) -> None:
    """Good samples of the batch come twice."""
    corpus = make_corpus(tmp_path / "corpus", bad=(1, 4), size=size)
    ids = in_all_layouts(lambda **changes: config_of(corpus, tmp_path / "run", **changes))
    replaced = in_use(ids, planned_ids(size), {1, 4})
    assert replaced and not set(replaced) & {1, 4} and len(set(replaced)) > 1


def test_a_small_dataset_of_a_mixture(tmp_path: Path) -> None:
    """Samples of the other dataset take the places of its bad one where all of it is in the batch; none of them is in the batch too."""
    corpus = make_corpus(tmp_path / "corpus", bad=(), size=60)
    write_stream(corpus / "small", MediaKind.IMAGE, [pair(100 + n, b"damaged" if n == 2 else picture(100 + n)) for n in range(5)])
    mixed = [{"folder": str(corpus / "image_text"), "weight": 1}, {"folder": str(corpus / "small"), "weight": 3}]
    ids = in_all_layouts(lambda **changes: config_of(corpus, tmp_path / "run", data__train={"image_text": mixed}, **changes))
    datasets = [DatasetConfig.model_validate(one) for one in mixed]
    order = training_order(seed=5, task=Task.IMAGE_TEXT, datasets=datasets, sizes=[60, 5])
    planned = order.at(np.arange(80)).indices.reshape(10, 8).tolist()
    replaced = in_use(ids, planned, {62})
    assert sum(one < 60 for one in replaced) > 3
    for row, plan in zip(ids, planned, strict=True):
        assert not {one for one, wanted in zip(row, plan, strict=True) if wanted == 62} & set(plan)


def test_a_storage_fault_of_a_small_dataset_is_repeated_on_a_resume(tmp_path: Path) -> None:
    """By the checkpoint, and by the ledger for what came after it."""
    intact, corpus = (make_corpus(tmp_path / name, bad=(), size=6) for name in ("intact", "corpus"))
    config = config_of(corpus, tmp_path / "run", training__microbatch=8)
    storage_fault(corpus, 2)
    loader = make_loader(config, ledger=Ledger(config.run_dir))
    steps = iter(loader)
    begun = [next(steps)[1][0].sample_ids.tolist() for _ in range(5)]
    restore(corpus, intact)
    assert not any(2 in row for row in begun) and loader.substituted_after(4) == sum(row.count(2) for row in planned_ids(6)[:5])
    resumed = make_loader(config, start_step=2, state=loader.state_after(1), ledger=Ledger(config.run_dir))
    again = ids_of(resumed)
    assert again[:3] == begun[2:] and again[3:] == planned_ids(6)[5:]


def test_a_sample_without_any_other(tmp_path: Path) -> None:
    config = config_of(make_corpus(tmp_path / "corpus", bad=(0,), size=1), tmp_path / "run")
    with pytest.raises(UserError, match="so are all 0 samples"):
        next(iter(make_loader(config)))


def storage_fault(corpus: Path, index: int) -> int:
    """Spoils a picture's bytes on disk."""
    manifest = Manifest.load(corpus / "image_text")
    data = manifest.media(index)
    tar = next((corpus / "image_text").glob("*.tar"))
    spoilt = tar.read_bytes().replace(data, bytes(len(data)))
    with tar.open("r+b") as file:  # in place: loaders hold it open
        file.write(spoilt)
    return index


def restore(corpus: Path, intact: Path) -> None:
    with next((corpus / "image_text").glob("*.tar")).open("r+b") as file:
        file.write(next((intact / "image_text").glob("*.tar")).read_bytes())


def test_a_storage_fault_is_repeated_on_a_resume_though_it_is_gone(tmp_path: Path) -> None:
    """The run saves after step 1 and dies after step 4; a fault hits steps 0 and 3, and is gone when the run goes on."""
    intact, corpus = make_corpus(tmp_path / "intact"), make_corpus(tmp_path / "corpus")
    config = config_of(corpus, tmp_path / "run", training__microbatch=8)
    planned = planned_ids()
    hit = [next(one for one in planned[step] if one not in BAD) for step in (0, 3)]
    for index in hit:
        storage_fault(corpus, index)
    loader = make_loader(config, ledger=Ledger(config.run_dir))
    steps = iter(loader)
    begun = [next(steps)[1][0].sample_ids.tolist() for _ in range(2)]
    state = DataState.model_validate_json(loader.state_after(1).model_dump_json())
    lost = [next(steps)[1][0].sample_ids.tolist() for _ in range(3)]
    restore(corpus, intact)
    assert [(one.index, one.fault) for one in state.substitutions] == [(hit[0], Fault.STORAGE)]
    resumed = make_loader(config, start_step=2, state=state, ledger=Ledger(config.run_dir))
    again = ids_of(resumed)
    assert hit[1] not in again[1] and again[:3] == lost
    content_events = sum(one in BAD for ids in planned for one in ids)
    assert resumed.state_after(9).substituted == content_events + 2
    assert {one.index for one in resumed.state_after(9).substitutions} == set(hit)
    assert begun[0] != planned[0]
    assert len((config.run_dir / LEDGER).read_text().splitlines()) == content_events + 2


def test_a_storage_that_is_away_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "corpus", bad=())
    config = config_of(corpus, tmp_path / "run", training__microbatch=8)
    for index in planned_ids()[0][:2]:
        storage_fault(corpus, index)
    next(iter(make_loader(config)))
    assert capfd.readouterr().err.count("another sample takes its place") == 1


def test_a_storage_that_is_gone_stops_a_large_batch_as_soon_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All samples of the batch share their pauses: after each round of candidates, not after each read."""
    corpus = make_corpus(tmp_path / "corpus", bad=())
    loader = make_loader(config_of(corpus, tmp_path / "run", training__microbatch=8))
    next((corpus / "image_text").glob("*.tar")).unlink()
    pauses: list[float] = []
    monkeypatch.setattr("megatron_mplug2.data.step_reader.time.sleep", pauses.append)
    with pytest.raises(UserError, match=r"is bad \(.*No such file.*\), and so are all 16 samples tried in its place"):
        next(iter(loader))
    assert pauses == [*RETRY_PAUSES_S] * 17


def test_a_ledger_of_other_data_is_not_repeated(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", bad=())
    config = config_of(corpus, tmp_path / "run", training__microbatch=8)
    good = ids_of(make_loader(config))
    storage_fault(corpus, good[0][0])
    next(iter(make_loader(config, ledger=Ledger(config.run_dir))))
    other = make_corpus(tmp_path / "other", bad=(), size=41)
    expected = ids_of(make_loader(config_of(other, tmp_path / "run2", training__microbatch=8)))
    with_ledger = make_loader(config_of(other, tmp_path / "run", training__microbatch=8), ledger=Ledger(config.run_dir))
    assert ids_of(with_ledger) == expected


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
