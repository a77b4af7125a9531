"""One sample of a stream, from its bytes to token rows and a request for pixels; every choice is drawn by the sample's key."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_mplug2.config.data import DataConfig
from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.asked import Asked, asked_questions
from megatron_mplug2.data.decoding.augment import drawn_operations
from megatron_mplug2.data.decoding.contract import ClipRequest, Decoded, Decoder, PictureRequest, Transform, View
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.grounding import asked_regions
from megatron_mplug2.data.labelling import framed_texts, labelling_of
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.masking import Masked, mask_tokens
from megatron_mplug2.data.quarantine import BadSample, retried
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.views import WHOLE, EvaluationView
from megatron_mplug2.errors import UserError

_SPLIT_FROM, _SPLIT_TO = 0.3, 0.7
"""Shares of a document between which its prefix ends."""


@dataclass(frozen=True, kw_only=True)
class PicturePair:
    """Two pictures that are seen together, as a clip's two frames: [3, 2, R, R]."""

    left: PictureRequest
    right: PictureRequest


MediaRequest = PictureRequest | ClipRequest | PicturePair


class Augmentation(StrEnum):
    DRAWN = "drawn"
    """Crop, flip and frames by keyed draws: training."""
    NONE = "none"
    """Full view and middle frames, or another `view`: validation and test."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What becomes of a sample's media."""

    frames: int
    """Of a clip; pictures have one."""
    resolution: int
    augmentation: Augmentation
    pictures: int = 1
    """Of a sample of pictures; 2 are seen together."""
    view: EvaluationView = WHOLE
    """Without augmentation."""


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """Token rows are int64, see TextBatch."""

    index: int
    document: Masked
    prefix: NDArray[np.int64]
    target: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairSample:
    """Token rows are int64, see PairBatch."""

    index: int
    media: MediaRequest | None
    """None where it was not asked for."""
    caption: NDArray[np.int64]
    instructions: NDArray[np.int64]
    """[k, text_length]"""
    targets: NDArray[np.int64]
    """[k, target_length]"""
    shares: NDArray[np.float32]
    """[k]"""
    media_id: int
    meaning_id: int


def read_record(manifest: Manifest, index: int) -> Record:
    """Raises BadSample where the record is damaged, OSError where it cannot be read."""
    try:
        return retried(lambda: manifest.record(index))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSample(f"damaged record: {type(error).__name__}: {error}") from None


def media_request(
    manifest: Manifest, picture: Picture, draws: SampleDraws, data: DataConfig, record: Record, view: View | None = None
) -> MediaRequest:
    """The sample's bytes and what is drawn for them, the same for both pictures of a pair; `view` takes the place of the drawn one.

    Raises OSError where the bytes cannot be read or have changed, BadSample where a second picture is wanted and there is none.
    """
    content, share = retried(lambda: manifest.media(draws.index)), picture.view.segment_share
    view = view or _view(picture, draws, data)
    transform = Transform(resolution=picture.resolution, view=view, resize=data.test_transform)
    shares = None if share is None else [share] * picture.frames
    if picture.augmentation is Augmentation.DRAWN:
        numbers = draws.uniforms(2 * data.randaugment.operations, Purpose.RANDAUGMENT).tolist()
        operations = drawn_operations(numbers, data.randaugment.magnitude)
        transform = Transform(resolution=picture.resolution, view=view, operations=operations)
        shares = draws.uniforms(picture.frames, Purpose.FRAMES).tolist()
    if draws.task is Task.IMAGE_TEXT:
        one = PictureRequest(data=content, transform=transform)
        return one if picture.pictures == 1 else _pair(manifest, draws.index, one)
    return ClipRequest(data=content, frames=picture.frames, segment_shares=shares, span_s=record.span_s, transform=transform)


def _pair(manifest: Manifest, index: int, left: PictureRequest) -> PicturePair:
    content = retried(lambda: manifest.second_media(index))
    if not content:
        raise BadSample("no second picture")
    return PicturePair(left=left, right=replace(left, data=content))


def decoded(decoder: Decoder, requests: Sequence[MediaRequest]) -> list[Decoded]:
    """The answers to requests of pictures and clips, in their order, each kind decoded as one batch. A pair is bad where one of it is."""
    singles = [(request.left, request.right) if isinstance(request, PicturePair) else (request,) for request in requests]
    flat = [one for single in singles for one in single]
    pictures = [one for one in flat if isinstance(one, PictureRequest)]
    clips = [one for one in flat if isinstance(one, ClipRequest)]
    answers = iter(decoder.pictures(pictures)), iter(decoder.clips(clips))
    return [_together([next(answers[isinstance(one, ClipRequest)]) for one in single]) for single in singles]


def _together(answers: Sequence[Decoded]) -> Decoded:
    frames = [answer for answer in answers if isinstance(answer, torch.Tensor)]
    bad = [answer for answer in answers if not isinstance(answer, torch.Tensor)]
    return bad[0] if bad else frames[0] if len(frames) == 1 else torch.cat(frames, dim=1)


def draw_view(draws: SampleDraws, data: DataConfig) -> View:
    """A crop of an area uniform in `data.crop_scale` at a uniform place."""
    area, x, y, flip = draws.uniforms(4, Purpose.VIEW).tolist()
    smallest, largest = data.crop_scale
    return View(area=smallest + (largest - smallest) * area, x=x, y=y, flip=data.flip and flip < 0.5)


def _view(picture: Picture, draws: SampleDraws, data: DataConfig) -> View:
    return draw_view(draws, data) if picture.augmentation is Augmentation.DRAWN else picture.view.crop


class SampleReader:
    """Reads samples in the form that training takes."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self._data: DataConfig = config.data
        self._objectives: ObjectivesConfig = config.objectives
        self._kind: FamilyKind | None = config.downstream.family.kind if config.downstream else None
        self._labelling = labelling_of(config)
        self._tokenizer = tokenizer

    def text(self, manifest: Manifest, draws: SampleDraws) -> TextSample:
        """A document, or of a long one a drawn stretch; of a family of texts all, and its class. Raises BadSample, OSError."""
        length, tokenizer = self._data.document_length, self._tokenizer
        record = read_record(manifest, draws.index)
        if self._labelling is not None:
            answer = self._labelled(manifest, draws, record).answer
            prefix = framed_texts(tokenizer, record, length)
            masked = mask_tokens(prefix, self._objectives.mlm, tokenizer, draws)
            return TextSample(index=draws.index, document=masked, prefix=prefix, target=self._target(answer))
        pieces = tokenizer.pieces(record.text)
        if not pieces:
            raise BadSample("no text")
        start = draws.one_of(max(len(pieces) - (length - 1), 0) + 1, Purpose.WINDOW)
        pieces = pieces[start : start + length - 1]
        share = _SPLIT_FROM + (_SPLIT_TO - _SPLIT_FROM) * draws.uniforms(1, Purpose.SPLIT)[0]
        cut = min(max(round(share * len(pieces)), 1), len(pieces) - 1)
        return TextSample(
            index=draws.index,
            document=mask_tokens(tokenizer.frame(pieces, length), self._objectives.mlm, tokenizer, draws),
            prefix=tokenizer.frame(pieces[:cut], length),
            target=tokenizer.frame_target(pieces[cut:], self._data.target_length),
        )

    def pair(self, manifest: Manifest, picture: Picture | None, draws: SampleDraws, *, needs_media: bool = True) -> PairSample:
        """A picture or clip, not decoded yet, with its texts; without media where they are not needed or `picture` is None. Grounding
        always needs `picture`: what is seen says where a box lies. Raises BadSample, OSError."""
        entry, record = manifest.entry(draws.index), read_record(manifest, draws.index)
        captions = [caption for caption in record.captions if self._tokenizer.says_something(caption)]
        asked, view = self._asked_of(manifest, picture, record, captions, draws)
        captions = captions or [""]
        media = media_request(manifest, picture, draws, self._data, record, view) if picture and needs_media else None
        return PairSample(
            index=draws.index,
            media=media,
            caption=self._tokenizer.encode(captions[draws.one_of(len(captions), Purpose.CAPTION)], self._data.text_length),
            instructions=np.stack([self._tokenizer.encode(one.instruction, self._data.text_length) for one in asked]),
            targets=np.stack([self._target(one.answer) for one in asked]),
            shares=np.array([one.share for one in asked], np.float32),
            media_id=entry.media_id,
            meaning_id=entry.meaning_id,
        )

    def _asked_of(
        self, manifest: Manifest, picture: Picture | None, record: Record, captions: list[str], draws: SampleDraws
    ) -> tuple[list[Asked], View | None]:
        """k rows by the kind of family, and the view where it is not the drawn one. Raises BadSample."""
        lm = self._objectives.lm
        says = self._tokenizer.says_something
        questions = [question for question in record.questions if says(question.question) and says(question.answer)]
        if self._labelling is not None:
            return [self._labelled(manifest, draws, record)], None
        if self._kind is FamilyKind.GROUNDING:
            assert picture is not None
            seen, drawn = manifest.facts(draws.index), _view(picture, draws, self._data)
            return asked_regions(record, seen, drawn, picture.resolution, lm.instructions, draws)
        if self._kind is FamilyKind.QA:
            if not questions:
                raise BadSample("no question")
            return asked_questions(questions, lm.instructions, lm.answers, draws), None
        if not captions:
            raise BadSample("no caption")
        return self._captions(questions if self._kind is None else [], captions, draws), None

    def _labelled(self, manifest: Manifest, draws: SampleDraws, record: Record) -> Asked:
        """What is asked, and the right class. Raises BadSample where something lacks, UserError for a label that is not in the list."""
        assert self._labelling is not None
        if (gap := self._labelling.gap(record)) is not None:
            raise BadSample(gap)
        right = self._labelling.place(record)
        if right is None:
            place = manifest.place(draws.index)
            where = f"{draws.task} sample {draws.index} ({manifest.entry(draws.index).key} in {place.dataset}/{place.shard})"
            raise UserError(f"{where}: {self._labelling.not_listed(record)}")
        return Asked(instruction=self._labelling.asked(record), answer=self._labelling.classes.names[right])

    def _target(self, answer: str) -> NDArray[np.int64]:
        """Of no answer `[CLS]` alone: nothing to predict, so that the row counts nothing."""
        length = self._data.target_length
        return self._tokenizer.target(answer, length) if answer else self._tokenizer.encode("", length)

    def _captions(self, asked: list[Question], captions: list[str], draws: SampleDraws) -> list[Asked]:
        """k instructions and answers: a caption, then questions, then other captions where there are too few questions."""
        lm = self._objectives.lm
        instruction = lm.video_instruction if draws.task is Task.VIDEO_TEXT else lm.image_instruction
        order = draws.order(len(asked), Purpose.QUESTIONS)[: lm.instructions - 1]
        wanted = lm.instructions - len(order)
        told = draws.order(len(captions), Purpose.TARGET_CAPTION)
        texts = [Asked(instruction=instruction, answer=captions[told[place % len(told)]]) for place in range(wanted)]
        questions = (Asked(instruction=asked[place].question, answer=asked[place].answer) for place in order)
        return [texts[0], *questions, *texts[1:]]
