"""Bad samples in a run: what takes their place, on which ranks, and after a resume."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from megatron_mplug2.config.data import DatasetConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.interleave import training_order
from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.quarantine import RETRY_PAUSES_S
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.substitution import Fault
from megatron_mplug2.errors import UserError
from tests.data.bad_corpus import BAD, config_of, ids_of, make_corpus, make_loader, planned_ids, storage_fault
from tests.data.corpus import pair, picture, write_stream


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
