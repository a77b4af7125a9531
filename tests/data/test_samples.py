from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_mplug2.config.objectives import Averaging
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.batch import IGNORED
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW, Decoded
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.samples import Augmentation, PairSample, Picture, SampleReader, TextSample, decoded, draw_view
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.objectives.instruction_lm import instruction_lm_count
from tests.data.corpus import Sample, clip, document, make_config, pair, picture, write_corpus, write_stream

TRAINING = Picture(frames=3, resolution=16, augmentation=Augmentation.DRAWN)
PLAIN = Picture(frames=3, resolution=16, augmentation=Augmentation.NONE)


class Reading:
    """Samples of one small stream, read under one config."""

    def __init__(self, folder: Path, kind: MediaKind, task: Task, samples: list[Sample], **changes: object) -> None:
        write_corpus(folder / "corpus", texts=1, images=1, videos=1)
        self.config = make_config(folder / "corpus", folder / "run", **changes)
        self.tokenizer = Tokenizer(self.config.data.vocab, 64)
        self.manifest = Manifest.load(write_stream(folder / "stream", kind, samples))
        self.task = task
        self._reader = SampleReader(self.config, self.tokenizer)

    def draws(self, index: int = 0, epoch: int = 0) -> SampleDraws:
        return SampleDraws(seed=5, task=self.task, epoch=epoch, index=index)

    def text(self, index: int = 0, epoch: int = 0) -> TextSample:
        return self._reader.text(self.manifest, self.draws(index, epoch))

    def pair(self, index: int = 0, epoch: int = 0, picture: Picture | None = None) -> PairSample:
        return self._reader.pair(self.manifest, picture, self.draws(index, epoch))

    def media(self, picture: Picture, index: int = 0, epoch: int = 0) -> Decoded:
        request = self.pair(index, epoch, picture).media
        assert request is not None
        return decoded(PyavDecoder(), [request])[0]


def words(tokens: np.ndarray) -> list[int]:
    return [token for token in tokens.tolist() if token not in (0, 2, 3)]


def test_a_document_is_masked_and_told_on(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.TEXT, Task.TEXT, [document(0, 10)])
    pieces = reading.tokenizer.pieces(reading.manifest.record(0).text)
    cuts = set()
    for epoch in range(60):
        sample = reading.text(epoch=epoch)
        original = np.where(sample.document.labels != IGNORED, sample.document.labels, sample.document.tokens)
        assert original.tolist() == [2, *pieces, 0, 0, 0, 0, 0]
        prefix, target = words(sample.prefix), words(sample.target)
        assert prefix + target == pieces[: len(prefix) + 7] and sample.target[0] == 2
        assert sample.target[1 + len(target)] == 3 and len(sample.target) == 9 and len(sample.prefix) == 16
        cuts.add(len(prefix))
    assert cuts == {3, 4, 5, 6, 7}


def test_a_long_document_shows_another_stretch_each_epoch(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.TEXT, Task.TEXT, [document(0, 40)])
    pieces = reading.tokenizer.pieces(reading.manifest.record(0).text)
    starts = set()
    for epoch in range(200):
        sample = reading.text(epoch=epoch)
        shown = np.where(sample.document.labels != IGNORED, sample.document.labels, sample.document.tokens).tolist()
        assert shown[0] == 2
        starts.add(next(start for start in range(26) if pieces[start : start + 15] == shown[1:]))
    assert {0, 25} <= starts and len(starts) > 20


def test_short_documents(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.TEXT, Task.TEXT, [document(0, 1), document(1, 2), document(2, 0)])
    assert (len(words(reading.text(0).prefix)), len(words(reading.text(0).target))) == (0, 1)
    assert (len(words(reading.text(1).prefix)), len(words(reading.text(1).target))) == (1, 1)
    with pytest.raises(BadSample, match="no text"):
        reading.text(2)


def test_pictures_and_clips_by_what_was_drawn(tmp_path: Path) -> None:
    images = Reading(tmp_path / "image", MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))], data__flip=True)
    clips = Reading(tmp_path / "video", MediaKind.VIDEO, Task.VIDEO_TEXT, [pair(0, clip(0))])
    drawn = images.media(TRAINING, epoch=1)
    view = draw_view(images.draws(epoch=1), images.config.data)
    assert isinstance(drawn, torch.Tensor) and torch.equal(drawn, decode_image(picture(0), 16, view))
    plain, plain_clip = images.media(PLAIN), clips.media(PLAIN)
    assert isinstance(plain, torch.Tensor) and torch.equal(plain, decode_image(picture(0), 16, FULL_VIEW))
    assert isinstance(plain_clip, torch.Tensor) and torch.equal(plain_clip, decode_video(clip(0), 3, 16, FULL_VIEW, None))
    seen = [clips.media(TRAINING, epoch=epoch) for epoch in range(5)]
    assert len({media.sum().item() for media in seen if isinstance(media, torch.Tensor)}) == 5
    assert images.pair().media is None


def test_views_are_uniform_in_area_and_place(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))], data__crop_scale=[0.2, 0.6], data__flip=True)
    views = [draw_view(reading.draws(epoch=epoch), reading.config.data) for epoch in range(2000)]
    for values, low, high in (
        ([view.area for view in views], 0.2, 0.6),
        ([view.x for view in views], 0, 1),
        ([view.y for view in views], 0, 1),
    ):
        counts, _ = np.histogram(values, bins=10, range=(low, high))
        assert counts.sum() == 2000 and np.abs(counts - 200).max() < 75
    assert abs(sum(view.flip for view in views) - 1000) < 120


def test_no_crop_no_flip_is_the_full_view(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))], data__crop_scale=[1.0, 1.0])
    media = reading.media(TRAINING)
    assert isinstance(media, torch.Tensor) and torch.equal(media, decode_image(picture(0), 16, FULL_VIEW))


def test_captions_and_questions_are_drawn(tmp_path: Path) -> None:
    reading = Reading(
        tmp_path,
        MediaKind.IMAGE,
        Task.IMAGE_TEXT,
        [pair(0, picture(0), captions=3, questions=3)],
        objectives__lm__instructions=3,
    )
    tokenizer, record = reading.tokenizer, reading.manifest.record(0)
    captions = {tuple(tokenizer.encode(caption, 10)): place for place, caption in enumerate(record.captions)}
    told = {tuple(tokenizer.target(caption, 9)): place for place, caption in enumerate(record.captions)}
    questions = {tuple(tokenizer.encode(one.question, 10)): one for one in record.questions}
    seen_captions, seen_targets, seen_questions = set(), set(), set()
    for epoch in range(100):
        sample = reading.pair(epoch=epoch)
        seen_captions.add(captions[tuple(sample.caption)])
        seen_targets.add(told[tuple(sample.targets[0])])
        assert np.array_equal(sample.instructions[0], tokenizer.encode("what does the image describe?", 10))
        asked = [questions[tuple(row)] for row in sample.instructions[1:]]
        assert [tokenizer.target(one.answer, 9).tolist() for one in asked] == sample.targets[1:].tolist()
        assert asked[0] != asked[1]
        seen_questions.add((asked[0].question, asked[1].question))
    assert seen_captions == seen_targets == {0, 1, 2} and len(seen_questions) == 6


def test_other_captions_where_questions_are_too_few(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.VIDEO, Task.VIDEO_TEXT, [pair(0, b"", captions=2, questions=1)], objectives__lm__instructions=4)
    sample = reading.pair()
    instruction = reading.tokenizer.encode("what does the video describe?", 10).tolist()
    assert [row.tolist() == instruction for row in sample.instructions] == [True, False, True, True]
    told = [tuple(sample.targets[place]) for place in (0, 2, 3)]
    assert told[0] != told[1] and told[0] == told[2]


def asked(reading: Reading, epoch: int = 0) -> list[tuple[list[int], list[int]]]:
    sample = reading.pair(epoch=epoch)
    return [(words(row), words(target)) for row, target in zip(sample.instructions, sample.targets, strict=True)]


def test_a_family_of_questions_asks_questions_alone_each_once(tmp_path: Path) -> None:
    """Rows past the last question count nothing, and a sample needs no caption."""
    family = {"downstream": {"family": "video_qa"}, "schedule": [{"steps": 6, "video_text": 1, "resolution": 16}]}
    weights = {"objectives__vlc__weight": 0, "objectives__vlm__weight": 0}
    samples = [pair(0, b"", captions=0, questions=2), pair(1, b"", captions=2, questions=0)]
    one = Reading(tmp_path / "one", MediaKind.VIDEO, Task.VIDEO_TEXT, samples, objectives__lm__instructions=1, **family, **weights)
    record, tokenizer = one.manifest.record(0), one.tokenizer
    wanted = [(tokenizer.pieces(question.question), tokenizer.pieces(question.answer)) for question in record.questions]
    seen = [asked(one, epoch) for epoch in range(20)]
    assert all(len(rows) == 1 and rows[0] in wanted for rows in seen) and len({str(rows) for rows in seen}) == 2
    more = Reading(tmp_path / "more", MediaKind.VIDEO, Task.VIDEO_TEXT, samples, objectives__lm__instructions=4, **family, **weights)
    rows = asked(more)
    assert sorted(rows[:2]) == sorted(wanted) and rows[2:] == [([], []), ([], [])]
    targets = torch.from_numpy(more.pair().targets)
    assert instruction_lm_count(targets, Averaging.SAMPLE) == 2
    with pytest.raises(BadSample, match="no question"):
        one.pair(1)


def test_a_family_of_captions_asks_for_captions_alone(tmp_path: Path) -> None:
    family = {"downstream": {"family": "image_caption"}, "schedule": [{"steps": 6, "image_text": 1, "resolution": 16}]}
    weights = {"objectives__vlc__weight": 0, "objectives__vlm__weight": 0}
    samples = [pair(0, b"", captions=2, questions=3)]
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, samples, objectives__lm__instructions=2, **family, **weights)
    instruction = reading.tokenizer.pieces("what does the image describe?")
    captions = [reading.tokenizer.pieces(caption)[:7] for caption in reading.manifest.record(0).captions]
    rows = asked(reading)
    assert [row for row, _ in rows] == [instruction, instruction] and sorted(told for _, told in rows) == sorted(captions)


def test_texts_do_not_depend_on_media(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))])
    with_media, without = reading.pair(picture=TRAINING), reading.pair()
    assert np.array_equal(with_media.caption, without.caption) and np.array_equal(with_media.targets, without.targets)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (pair(0, picture(0), captions=0), "no caption"),
        (Sample(key="blank", media=picture(0), record=Record(captions=(" ", ""), attributes={})), "no caption"),
        (Sample(key="unseen", media=picture(0), record=Record(captions=("\u200b", "\ufeff\u200d"), attributes={})), "no caption"),
    ],
)
def test_bad_samples(tmp_path: Path, sample: Sample, reason: str) -> None:
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [sample])
    with pytest.raises(BadSample, match=reason):
        reading.pair(picture=TRAINING)


@pytest.mark.parametrize("data", [b"no picture", picture(0)[:200]])
def test_bad_media(tmp_path: Path, data: bytes) -> None:
    media = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, data)]).media(TRAINING)
    assert isinstance(media, BadMedia) and "not a readable picture" in str(media)


def overwrite(folder: Path, found: bytes, replaced: bytes) -> None:
    tar = next(folder.glob("*.tar"))
    tar.write_bytes(tar.read_bytes().replace(found, replaced))


class Odd(Record):
    def to_json(self) -> bytes:
        return self.text.encode()


@pytest.mark.parametrize("fields", ['{"captions": 3}', '{"captions": [7], "questions": [], "attributes": {}}'])
def test_a_record_of_another_form_is_bad_content(tmp_path: Path, fields: str) -> None:
    odd = Sample(key="odd", media=picture(0), record=Odd(text=fields, attributes={}))
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [odd])
    with pytest.raises(BadSample, match="damaged record"):
        reading.pair()


def test_changed_texts_are_a_fault_of_the_storage(tmp_path: Path) -> None:
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))])
    caption = reading.manifest.record(0).captions[0].encode()
    overwrite(tmp_path / "stream", caption, caption[::-1])
    with pytest.raises(OSError, match="record of pair-0000 is damaged"):
        reading.pair()


def test_changed_bytes_are_a_fault_of_the_storage(tmp_path: Path) -> None:
    """Even where they still decode."""
    reading = Reading(tmp_path, MediaKind.IMAGE, Task.IMAGE_TEXT, [pair(0, picture(0))])
    overwrite(tmp_path / "stream", picture(0), picture(0)[:-9] + bytes(7) + picture(0)[-2:])
    with pytest.raises(OSError, match="media of pair-0000 is damaged"):
        reading.pair(picture=TRAINING)
