"""`mplug2 data probe`: looks into every sample: are its texts there, what is its media, can it be decoded, what does it look like."""

import stat
from dataclasses import replace

import numpy as np
from PIL import Image

from data_tools.sample import Half, Look, MediaPlace, Reason, Sample
from data_tools.stages.listing_stage import Spot
from data_tools.stages.text_ids import text_ids
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.manifest import content_id
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.probing import clip_facts, picture_facts
from megatron_mplug2.data.record import Record

_TRIED_FRAMES = 8
"""Frames of a clip that must be decodable, spread over its length."""
_SIDE = 64
"""Pixels a side at which they are decoded."""
MOST_MEDIA_BYTES = 2 << 30
"""Bytes of the largest picture or clip: it goes through memory in one piece."""
MOST_CHARACTERS = 1 << 20
"""Characters of all texts of a sample together."""
_LOOK_SIDE = 8


class Unusable(Exception):  # noqa: N818 (the name says what it is about)
    """The sample cannot be used."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def look_into(sample: Sample, spot: Spot) -> Sample:
    """The sample, its texts stripped, with what was found in its bytes, or with the reason to leave it out. Writes nothing at the spot."""
    try:
        sample = with_texts(sample)
        return looked_at(sample, *bytes_of(sample))
    except Unusable as error:
        return sample.without(error.reason, error.detail)


def with_texts(sample: Sample) -> Sample:
    """The sample, its texts stripped. Raises Unusable where there are none, or too many characters."""
    sample = replace(sample, record=stripped(sample.record))
    if not has_texts(sample.record):
        raise Unusable(Reason.NO_TEXT)
    if (characters := len(sample.record.to_json().decode())) > MOST_CHARACTERS:
        raise Unusable(Reason.TOO_LARGE, f"{characters} characters of text")
    return sample


def bytes_of(sample: Sample) -> tuple[bytes, bytes]:
    """Of the media and of the second picture, empty for what is not there. Raises Unusable where they cannot be read."""
    try:
        return (read_media(sample.media) if sample.media else b""), (read_media(sample.second) if sample.second else b"")
    except FileNotFoundError:
        raise Unusable(Reason.MISSING) from None
    except BadMedia as error:
        raise Unusable(Reason.TOO_LARGE, str(error)) from None
    except OSError as error:
        raise Unusable(Reason.UNREADABLE, error.strerror or str(error)) from None


def looked_at(sample: Sample, data: bytes, second: bytes) -> Sample:
    """The sample with what is found in its media's bytes. Raises Unusable where they cannot be decoded."""
    if sample.media is None:
        return replace(sample, look=text_look(sample.record))
    try:
        return replace(sample, look=media_look(sample.stream, data, second))
    except BadMedia as error:
        raise Unusable(Reason.UNREADABLE, str(error)) from None


def text_look(record: Record) -> Look:
    ids = text_ids(record)
    halves = tuple(Half(media_id=half, look_hash=0) for half in ids.halves)
    return Look(facts=None, size=0, media_id=ids.whole, look_hash=0, halves=halves)


def media_look(stream: Task, data: bytes, second: bytes) -> Look:
    """Of a picture or clip, or of a pair of pictures where `second` is not empty. Raises BadMedia where they cannot be decoded."""
    facts, look_hash = _decoded(stream, data)
    halves: tuple[Half, ...] = ()
    if second:
        of_second = Half(media_id=content_id("media", second), look_hash=_decoded(stream, second)[1])
        halves = (Half(media_id=content_id("media", data), look_hash=look_hash), of_second)
    media_id = content_id("media", data + second)
    return Look(facts=facts, size=len(data) + len(second), media_id=media_id, look_hash=look_hash, halves=halves)


def read_media(place: MediaPlace) -> bytes:
    """Raises OSError, also for what is no plain file (a pipe or a device never ends), and BadMedia for a file that is too large."""
    status = place.path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a plain file")
    size = status.st_size if place.size is None else place.size
    if size > MOST_MEDIA_BYTES:
        raise BadMedia(f"{size} bytes of media")
    return place.read()


def has_texts(record: Record) -> bool:
    """Whether anything could be learned from the record."""
    return bool(record.captions or record.text or record.questions or record.label or record.regions)


def stripped(record: Record) -> Record:
    """Without blank captions, questions that lack a text or an answer, blank phrases, regions that no phrase speaks of, and a blank
    label."""
    told = (replace(region, phrases=tuple(filter(None, map(_stripped, region.phrases)))) for region in record.regions)
    return replace(
        record,
        captions=tuple(filter(None, map(_stripped, record.captions))),
        questions=tuple(question for question in record.questions if _stripped(question.question) and _stripped(question.answer)),
        regions=tuple(region for region in told if region.phrases),
        text=_stripped(record.text),
        second_text=_stripped(record.second_text),
        label=None if record.label is None or is_blank(record.label) else record.label,
    )


def _stripped(text: str) -> str:
    return "" if is_blank(text) else text.strip()


def _decoded(stream: Task, data: bytes) -> tuple[MediaFacts, int]:
    """Facts and perceptual hash of a file whose pixels could be decoded. Raises BadMedia."""
    if stream is Task.IMAGE_TEXT:
        decoded = decode_image(data, _SIDE, FULL_VIEW)
        return picture_facts(data), look_hash(decoded[:, 0].numpy())
    decoded = decode_video(data, _TRIED_FRAMES, _SIDE, FULL_VIEW, None)
    return clip_facts(data), look_hash(decoded[:, _TRIED_FRAMES // 2].numpy())


def look_hash(pixels: np.ndarray) -> int:
    """Difference hash of [3, H, W] pixels in any linear scale: 64 bits, one for each pair of neighbours in a row of the picture at 9 x 8
    pixels (Krawetz, "Kind of Like That", 2013). Pictures that look alike differ in few bits."""
    grey = Image.fromarray(pixels.mean(0).astype(np.float32)).resize((_LOOK_SIDE + 1, _LOOK_SIDE), Image.Resampling.BOX)
    brighter = np.diff(np.asarray(grey), axis=1) > 0
    return int.from_bytes(np.packbits(brighter).tobytes(), "big")
