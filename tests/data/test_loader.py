from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch, PairBatch
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import UserError
from tests.data.corpus import document, make_config, pair, picture, write_corpus, write_stream

Steps = list[tuple[PlannedStep, list[Batch]]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def make_loader(config: RunConfig, data_rank: int = 0, data_size: int = 1, **arguments: Any) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=data_rank, data_size=data_size, needs_media=True, **arguments)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)}


def joined(batches: list[Batch]) -> dict[str, torch.Tensor]:
    rows = [tensors(batch) for batch in batches]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def assert_equal(left: Steps, right: Steps) -> None:
    assert [planned for planned, _ in left] == [planned for planned, _ in right]
    for (_, one), (_, other) in zip(left, right, strict=True):
        assert len(one) == len(other)
        for batch, same in zip(one, other, strict=True):
            assert batch.task is same.task
            first, second = tensors(batch), tensors(same)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


def test_shapes(corpus: Path, tmp_path: Path) -> None:
    seen = set()
    for planned, batches in make_loader(make_config(corpus, tmp_path)):
        assert len(batches) == 4
        for batch in batches:
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors(batch).items()}
            assert batch.task is planned.task
            if isinstance(batch, PairBatch):
                frames = planned.phase.frames if planned.task is Task.VIDEO_TEXT else 1
                side = planned.phase.resolution
                assert shapes == {
                    "media": (2, 3, frames, side, side),
                    "captions": (2, 10),
                    "instructions": (4, 10),
                    "targets": (4, 9),
                    "shares": (4,),
                    "media_ids": (2,),
                    "meaning_ids": (2,),
                    "sample_ids": (2,),
                }
                assert batch.media is not None and batch.media.dtype is torch.uint8
            else:
                assert shapes == {"masked": (2, 16), "labels": (2, 16), "prefix": (2, 16), "targets": (2, 9), "sample_ids": (2,)}
            assert all(tensor.dtype is torch.int64 for name, tensor in tensors(batch).items() if name not in ("media", "shares"))
            assert all(tensor.is_contiguous() for tensor in tensors(batch).values())
        seen.add(planned.task)
    assert seen == set(Task)


def test_any_layout_gives_the_same_global_batches(corpus: Path, tmp_path: Path) -> None:
    whole = [joined(batches) for _, batches in make_loader(make_config(corpus, tmp_path, training__microbatch=8))]
    for data_size, microbatch in ((1, 2), (2, 2), (2, 4), (4, 2)):
        config = make_config(corpus, tmp_path, training__microbatch=microbatch)
        ranks = [list(make_loader(config, rank, data_size)) for rank in range(data_size)]
        for place, expected in enumerate(whole):
            per_rank = [rank[place][1] for rank in ranks]
            dealt = [rank[m] for m in range(8 // (microbatch * data_size)) for rank in per_rank]
            got = joined(dealt)
            assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)


def test_an_epoch_holds_each_sample_once(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path, schedule=[{"steps": 30, "text": 1.0}], training__global_batch=6)
    ids = torch.cat([batch.sample_ids for _, batches in make_loader(config) for batch in batches])
    assert all(sorted(epoch) == list(range(30)) for epoch in ids.view(6, 30).tolist())


def test_without_media(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path)
    loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=False)
    for (_, batches), (_, full) in zip(loader, make_loader(config), strict=True):
        for batch, with_media in zip(batches, full, strict=True):
            expected = tensors(with_media)
            expected.pop("media", None)
            assert tensors(batch).keys() == expected.keys()
            assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(batch).items())


def test_workers_change_nothing(corpus: Path, tmp_path: Path) -> None:
    alone = list(make_loader(make_config(corpus, tmp_path)))
    for workers in (1, 2):
        assert_equal(alone, list(make_loader(make_config(corpus, tmp_path, data__workers=workers))))


def some(loader: Loader, count: int) -> Steps:
    steps: Iterator[tuple[PlannedStep, list[Batch]]] = iter(loader)
    return [next(steps) for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 6, 9, 13])
def test_a_resume_goes_on_as_if_nothing_had_happened(corpus: Path, tmp_path: Path, workers: int, stop: int) -> None:
    """Prefetch is 3 global batches, in flight at the stop."""
    config = make_config(corpus, tmp_path, data__workers=workers)
    whole = list(make_loader(config))
    first = make_loader(config)
    begun = some(first, stop)
    state = DataState.model_validate_json(first.state_after(stop - 1).model_dump_json())
    rest = list(make_loader(config, start_step=stop, state=state))
    assert_equal(whole, begun + rest)


def test_breaking_off_and_iterating_on(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path, data__workers=1)
    loader = make_loader(config)
    assert_equal(list(make_loader(config)), some(loader, 5) + list(loader))


def test_loading_leaves_the_global_generator_alone(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    some(make_loader(make_config(corpus, tmp_path, data__workers=1)), 2)
    assert torch.equal(torch.rand(3), expected)


def test_state_of_a_step_not_handed_out(corpus: Path, tmp_path: Path) -> None:
    loader = make_loader(make_config(corpus, tmp_path))
    some(loader, 3)
    assert [loader.state_after(step).steps for step in (-1, 0, 2)] == [0, 1, 3]
    with pytest.raises(ValueError, match="step 3"):
        loader.state_after(3)
    with pytest.raises(ValueError, match="start at step 2"):
        make_loader(make_config(corpus, tmp_path), start_step=2, state=loader.state_after(2))


def test_changed_data_are_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus)
    config = make_config(corpus, tmp_path)
    loader = make_loader(config)
    some(loader, 2)
    state = loader.state_after(1)
    write_stream(tmp_path / "other", MediaKind.TEXT, [document(number, 5) for number in range(30)])
    folders = {"text": [str(tmp_path / "other")], "image_text": [str(corpus / "image_text")], "video_text": [str(corpus / "video_text")]}
    with pytest.raises(UserError, match=r"from step 2, .* checkpoint: data.train.text.0 \(.*other\): as many samples, but another index\."):
        make_loader(make_config(corpus, tmp_path, data__train=folders), start_step=2, state=state)
    vocab = corpus / "vocab.txt"
    vocab.write_text(vocab.read_text() + "new\n")
    with pytest.raises(UserError, match=r"data.vocab"):
        make_loader(config, start_step=2, state=state)


def test_moved_data_are_the_same(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path)
    loader = make_loader(config)
    begun = some(loader, 3)
    (tmp_path / "moved").symlink_to(corpus)
    moved = make_config(tmp_path / "moved", tmp_path)
    assert_equal(list(make_loader(config)), begun + list(make_loader(moved, start_step=3, state=loader.state_after(2))))


def test_only_streams_of_the_schedule_are_opened(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(tmp_path / "all")
    (corpus / "vocab.txt").write_bytes((tmp_path / "all" / "vocab.txt").read_bytes())
    write_stream(corpus / "text", MediaKind.TEXT, [document(number, 5) for number in range(30)])
    assert len(list(make_loader(make_config(corpus, tmp_path, schedule=[{"steps": 3, "text": 1.0}])))) == 3
    with pytest.raises(UserError, match="image_text has no manifest"):
        make_loader(make_config(corpus, tmp_path))


def test_folders_that_do_not_fit_their_stream(corpus: Path, tmp_path: Path) -> None:
    schedule = [{"steps": 3, "image_text": 1.0}]
    with pytest.raises(UserError, match=r"data.train.image_text names .*video_text, which holds samples of kind video, not image"):
        make_loader(make_config(corpus, tmp_path, schedule=schedule, data__train={"image_text": [str(corpus / "video_text")]}))


def test_a_mixture_of_datasets_is_the_same_on_any_layout_and_after_a_resume(corpus: Path, tmp_path: Path) -> None:
    """One of three datasets has a bad sample."""
    bad = [pair(number, b"damaged" if number == 101 else picture(number)) for number in range(100, 109)]
    write_stream(tmp_path / "small", MediaKind.IMAGE, bad)
    write_stream(tmp_path / "more", MediaKind.IMAGE, [pair(number, picture(number)) for number in range(200, 230)])

    def config(weight: float = 2.0, **changes: Any) -> RunConfig:
        weights = {str(corpus / "image_text"): 1.0, str(tmp_path / "small"): 1.0, str(tmp_path / "more"): weight}
        datasets = [{"folder": folder, "weight": weight} for folder, weight in weights.items()]
        schedule = [{"steps": 20, "image_text": 1.0, "resolution": 16}]
        return make_config(corpus, tmp_path, data__train={"image_text": datasets}, schedule=schedule, **changes)

    whole = list(make_loader(config()))
    assert_equal(whole, list(make_loader(config(data__workers=2))))
    ids = np.array([[batch.sample_ids.tolist() for batch in batches] for _, batches in whole]).ravel()
    datasets = np.digitize(ids, [21, 30])
    assert np.bincount(datasets).tolist() == [40, 40, 80]
    assert 22 not in ids, "the bad one"
    ranks = [list(make_loader(config(), rank, 2)) for rank in range(2)]
    dealt = [rank[step][1][m].sample_ids.tolist() for step in range(20) for m in range(2) for rank in ranks]
    assert np.array_equal(np.array(dealt).ravel(), ids)
    loader = make_loader(config())
    begun = some(loader, 7)
    state = DataState.model_validate_json(loader.state_after(6).model_dump_json())
    assert_equal(whole, begun + list(make_loader(config(), start_step=7, state=state)))
    with pytest.raises(UserError, match=r"data.train.image_text.2 \(.*more\): weight 2.0 -> 3.0\. Put them back"):
        make_loader(config(3.0), start_step=7, state=state)
