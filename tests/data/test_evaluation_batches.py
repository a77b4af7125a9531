from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch, TextBatch
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.evaluation_batches import EvaluationBatch, evaluation_batches, validation_steps
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from tests.data.corpus import clip, make_config, pair, picture, write_corpus, write_stream


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def evaluate(config: RunConfig, task: Task, *, data_rank: int = 0, data_size: int = 1, batch: int = 4) -> list[EvaluationBatch]:
    return list(evaluation_batches(config, Split.TEST, task, data_rank=data_rank, data_size=data_size, batch=batch))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_once_in_order(corpus: Path, tmp_path: Path, workers: int) -> None:
    config = make_config(corpus, tmp_path, data__workers=workers)
    batches = evaluate(config, Task.VIDEO_TEXT)
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    manifest, tokenizer = Manifest.load(corpus / "video_text"), Tokenizer(config.data.vocab, 64)
    for index in range(11):
        batch, row = batches[index // 4], index % 4
        assert torch.equal(batch.media[row], decode_video(clip(index), 3, 24, FULL_VIEW, None))
        assert batch.captions[row].tolist() == tokenizer.encode(manifest.record(index).captions[0], 10).tolist()
        assert (int(batch.media_ids[row]), int(batch.meaning_ids[row])) == (
            manifest.entry(index).media_id,
            manifest.entry(index).meaning_id,
        )
        assert batch.left_out == ()


def test_frames_and_resolution_are_those_of_the_last_phase_with_the_task(corpus: Path, tmp_path: Path) -> None:
    schedule = [
        {"steps": 2, "image_text": 1.0, "resolution": 16},
        {"steps": 2, "image_text": 1.0, "resolution": 24},
        {"steps": 2, "video_text": 1.0, "resolution": 32, "frames": 5},
    ]
    config = make_config(corpus, tmp_path, schedule=schedule)
    assert evaluate(config, Task.IMAGE_TEXT)[0].media.shape == (4, 3, 1, 24, 24)
    assert evaluate(config, Task.VIDEO_TEXT)[0].media.shape == (4, 3, 5, 32, 32)
    with pytest.raises(UserError, match="no phase of the schedule has video_text"):
        evaluate(make_config(corpus, tmp_path, schedule=schedule[:2]), Task.VIDEO_TEXT)


@pytest.mark.parametrize("data_size", [2, 3, 30])
def test_ranks_share_the_samples(corpus: Path, tmp_path: Path, data_size: int) -> None:
    config = make_config(corpus, tmp_path)
    ranks = [evaluate(config, Task.IMAGE_TEXT, data_rank=rank, data_size=data_size) for rank in range(data_size)]
    indices = [index for rank in ranks for batch in rank for index in batch.indices.tolist()]
    assert sorted(indices) == list(range(21))
    sizes = [sum(len(batch.indices) for batch in rank) for rank in ranks]
    assert max(sizes) - min(sizes) <= 1


def test_what_cannot_be_decoded_is_left_out_and_named(corpus: Path, tmp_path: Path) -> None:
    samples = [pair(number, b"?" if number in (1, 4, 5, 6, 7) else picture(number), captions=number % 3) for number in range(9)]
    folder = write_stream(tmp_path / "images", MediaKind.IMAGE, samples)
    config = make_config(corpus, tmp_path, data__test={"image_text": [str(folder)]})
    batches = evaluate(config, Task.IMAGE_TEXT)
    assert [batch.indices.tolist() for batch in batches] == [[0, 2, 3], [], [8]]
    assert [[one.index for one in batch.left_out] for batch in batches] == [[1], [4, 5, 6, 7], []]
    assert batches[0].left_out[0].key == "pair-0001" and "not a readable picture" in batches[0].left_out[0].reason
    assert batches[1].media.shape == (0, 3, 1, 24, 24) and batches[1].captions.shape == (0, 10)
    assert torch.equal(batches[0].media[1], decode_image(picture(2), 24, FULL_VIEW))
    assert batches[0].captions[0].tolist() == [2] + [0] * 9  # no caption


def test_storage_that_fails_stops_an_evaluation(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    batches = evaluation_batches(make_config(tmp_path / "corpus", tmp_path), Split.TEST, Task.IMAGE_TEXT, data_rank=0, data_size=1, batch=4)
    next(batches)
    tar = tmp_path / "corpus" / "image_text" / "00000.tar"
    with tar.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"cannot be read .*ends early"):
        list(batches)


def test_validation_is_the_same_at_every_call(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path)
    for workers in (0, 2):
        same = make_config(corpus, tmp_path, data__workers=workers)
        runs = [list(validation_steps(one, Task.VIDEO_TEXT, 2, data_rank=0, data_size=1, needs_media=True)) for one in (config, same)]
        for (planned, batches), (_, again) in zip(*runs, strict=True):
            assert planned.phase is config.schedule[1] or planned.phase == config.schedule[1]
            for batch, other in zip(batches, again, strict=True):
                assert isinstance(batch, PairBatch) and isinstance(other, PairBatch)
                assert batch.media is not None and other.media is not None and torch.equal(batch.media, other.media)
                assert torch.equal(batch.captions, other.captions) and torch.equal(batch.targets, other.targets)
                for row, index in enumerate(batch.sample_ids.tolist()):
                    assert torch.equal(batch.media[row], decode_video(clip(index), 3, 24, FULL_VIEW, None))
        ids = [int(one) for _, batches in runs[0] for batch in batches for one in batch.sample_ids]
        assert ids == [*range(11), *range(5)]


def test_validation_of_text_on_two_ranks(corpus: Path, tmp_path: Path) -> None:
    config = make_config(corpus, tmp_path)
    whole = list(validation_steps(config, Task.TEXT, 3, data_rank=0, data_size=1, needs_media=True))
    ranks = [list(validation_steps(config, Task.TEXT, 3, data_rank=rank, data_size=2, needs_media=True)) for rank in range(2)]
    for step, (_, batches) in enumerate(whole):
        dealt = [batch for pairs in zip(ranks[0][step][1], ranks[1][step][1], strict=True) for batch in pairs]
        for batch, other in zip(batches, dealt, strict=True):
            assert isinstance(batch, TextBatch) and isinstance(other, TextBatch)
            assert torch.equal(batch.masked, other.masked) and torch.equal(batch.labels, other.labels)


def test_bad_validation_samples_are_substituted_and_written_once(corpus: Path, tmp_path: Path) -> None:
    samples = [pair(number, b"?" if number == 2 else picture(number)) for number in range(20)]
    folder = write_stream(tmp_path / "images", MediaKind.IMAGE, samples)
    config = make_config(corpus, tmp_path / "run", data__validation={"image_text": [str(folder)]})
    ledger = Ledger(config.run_dir)
    for _ in range(2):
        steps = list(validation_steps(config, Task.IMAGE_TEXT, 1, data_rank=0, data_size=1, needs_media=True, ledger=ledger))
        ids = [int(one) for batch in steps[0][1] for one in batch.sample_ids]
        assert ids[:2] + ids[3:] == [0, 1, 3, 4, 5, 6, 7] and ids[2] >= 8
    assert [(one.split, one.index) for one in ledger.events] == [(Split.VALIDATION, 2)]
