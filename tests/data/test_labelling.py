"""What a family with a closed list reads of a sample: what is asked, the class as its words, and both pictures of a pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.evaluation_batches import evaluation_batches
from megatron_mplug2.data.labelling import framed_texts
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.samples import Augmentation, PairSample, Picture, SampleReader, TextSample, decoded
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.views import evaluation_views
from megatron_mplug2.errors import UserError
from tests.data.corpus import Sample
from tests.data.labelled import label_of, labelled_config, sample

PAIR = Picture(frames=1, resolution=24, augmentation=Augmentation.NONE, pictures=2)


class Reading:
    """Samples of a family in a folder of their own."""

    def __init__(self, folder: Path, family: Family, samples: list[Sample]) -> None:
        self.family, self.config = family, labelled_config(folder, family, samples)
        self.tokenizer = Tokenizer(self.config.data.vocab, 64)
        self.manifest = Manifest.load(folder / "labelled")
        self._reader = SampleReader(self.config, self.tokenizer)

    def draws(self, index: int) -> SampleDraws:
        return SampleDraws(seed=5, task=self.family.task, epoch=0, index=index)

    def text(self, index: int = 0) -> TextSample:
        return self._reader.text(self.manifest, self.draws(index))

    def pair(self, index: int = 0, picture: Picture | None = None) -> PairSample:
        return self._reader.pair(self.manifest, picture, self.draws(index))

    def said(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode(tokens)


def test_a_class_is_taught_by_its_words(tmp_path: Path) -> None:
    """An instruction asks for the class of a picture or clip, the sentence for what the picture says to it."""
    for family in (Family.IMAGE_CLASSIFICATION, Family.VIDEO_CLASSIFICATION):
        reading = Reading(tmp_path / family, family, [sample(family, 0, "Red Circle ")])
        read = reading.pair()
        assert (read.instructions.shape[0], reading.said(read.targets[0])) == (1, "red circle")
        kind = "image" if family is Family.IMAGE_CLASSIFICATION else "video"
        assert reading.said(read.instructions[0]) == f"what does the {kind} describe?"
    plain = sample(Family.IMAGE_ENTAILMENT, 0, "up")
    sentence = replace(plain, record=replace(plain.record, captions=("the circle is red",)))
    read = (reading := Reading(tmp_path / "entailment", Family.IMAGE_ENTAILMENT, [sentence])).pair()
    assert [reading.said(tokens[0]) for tokens in (read.instructions, read.targets)] == ["the circle is red", "up"]


def test_texts_and_pairs_of_texts(tmp_path: Path) -> None:
    reading = Reading(tmp_path, Family.TEXT_CLASSIFICATION, [sample(Family.TEXT_CLASSIFICATION, number, "green") for number in range(2)])
    single, double = reading.text(0), reading.text(1)
    assert (single.prefix == reading.tokenizer.sep).sum() == 0 and (double.prefix == reading.tokenizer.sep).sum() == 2
    assert reading.said(single.prefix) == reading.manifest.record(0).text
    assert reading.said(double.target) == "green"


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(3, 2, (3, 2)), (20, 2, (5, 2)), (2, 20, (2, 5)), (20, 20, (4, 3)), (4, 3, (4, 3))],
)
def test_the_longer_text_is_cut(tmp_path: Path, first: int, second: int, kept: tuple[int, int]) -> None:
    reading = Reading(tmp_path, Family.TEXT_CLASSIFICATION, [sample(Family.TEXT_CLASSIFICATION, 0, "green")])
    record = Record(text="red " * first, second_text="blue " * second, attributes={})
    row, tokenizer = framed_texts(reading.tokenizer, record, 10), reading.tokenizer
    (red,), (blue,) = tokenizer.pieces("red"), tokenizer.pieces("blue")
    expected = [tokenizer.cls, *[red] * kept[0], tokenizer.sep, *[blue] * kept[1], tokenizer.sep]
    assert row.tolist() == expected + [0] * (10 - len(expected))


def test_two_pictures_are_two_frames(tmp_path: Path) -> None:
    """Left, then right; the same crop of both in training; bad where either is."""
    good = sample(Family.PAIR_ENTAILMENT, 0, "up")
    broken = replace(good, key="broken", second=good.second[:200])
    reading = Reading(tmp_path, Family.PAIR_ENTAILMENT, [good, broken, replace(good, key="half", second=b"")])
    requests = [reading.pair(index, PAIR).media for index in (0, 1)]
    pixels, bad = decoded(PyavDecoder(), [request for request in requests if request is not None])
    assert isinstance(pixels, torch.Tensor) and pixels.shape == (3, 2, 24, 24) and isinstance(bad, BadMedia)
    swapped = replace(good, media=good.second, second=good.media)
    other = Reading(tmp_path / "swapped", Family.PAIR_ENTAILMENT, [swapped]).pair(0, PAIR).media
    assert other is not None
    (exchanged,) = decoded(PyavDecoder(), [other])
    assert isinstance(exchanged, torch.Tensor) and torch.equal(pixels.flip(1), exchanged) and not torch.equal(pixels, exchanged)
    drawn = reading.pair(0, replace(PAIR, augmentation=Augmentation.DRAWN)).media
    assert drawn is not None and drawn.left.transform == drawn.right.transform  # type: ignore[union-attr]
    with pytest.raises(BadSample, match=r"^no second picture$"):
        reading.pair(2, PAIR)


def test_what_cannot_be_taught(tmp_path: Path) -> None:
    """No label is a bad sample; one that is not in the list is a mistake that another sample in its place would hide."""
    family = Family.IMAGE_ENTAILMENT
    plain = sample(family, 3, "Purple")
    samples = [
        sample(family, 0, None),
        sample(family, 1, "\u200b "),
        replace(plain, record=replace(plain.record, captions=(), label="up")),
        plain,
        replace(plain, record=replace(plain.record, captions=("\u200b\u2060",), label="up")),
    ]
    reading = Reading(tmp_path, family, samples)
    for index, told in ((0, "no label"), (1, "no label"), (2, "no sentence"), (4, "no sentence")):
        with pytest.raises(BadSample, match=f"^{told}$"):
            reading.pair(index)
    told = r"^image_text sample 3 \(pair-0003 in labelled/00000\.tar\): the label 'Purple' is not among the classes of .*classes\.txt; add"
    with pytest.raises(UserError, match=told):
        reading.pair(3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_outside_the_list_ends_a_loader(tmp_path: Path, workers: int) -> None:
    family = Family.IMAGE_CLASSIFICATION
    samples = [sample(family, number, "purple" if number == 5 else label_of(number)) for number in range(12)]
    config = labelled_config(tmp_path, family, samples, data__workers=workers)
    with pytest.raises(UserError, match=r"sample 5 \(pair-0005 in labelled/00000\.tar\): the label 'purple' is not among"):
        list(Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True))


def test_views_of_a_clip(tmp_path: Path) -> None:
    """Other frames and other parts of them; one view is what every other evaluation sees."""
    family = Family.VIDEO_CLASSIFICATION
    config = labelled_config(tmp_path, family, [sample(family, number, "up") for number in range(3)])

    def seen(segments: int, crops: int) -> list[torch.Tensor]:
        views = evaluation_views(segments, crops)
        batches = (evaluation_batches(config, Split.TEST, family.task, data_rank=0, data_size=1, batch=8, view=view) for view in views)
        return [next(batch).media for batch in batches]

    plain = next(evaluation_batches(config, Split.TEST, family.task, data_rank=0, data_size=1, batch=8)).media
    (alone,) = seen(1, 1)
    assert torch.equal(alone, plain) and alone.shape == (3, 3, 3, 24, 24)
    several = seen(2, 3)
    assert len(several) == 6 and all(view.shape == plain.shape for view in several)
    for number, view in enumerate(several):
        assert not any(torch.equal(view, other) for other in several[:number])
