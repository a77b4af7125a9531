"""`mplug2 data transcode`: writes clips and large pictures anew, small and cheap to decode, and a listing that points to them.

Media go to `media/CHUNK/NUMBER-KEY.mp4` and `.jpg` in the listing's folder. A picture that is small enough stays where it is.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_tools.sample import MediaPlace, Reason, Sample
from data_tools.stages.encode import BLOCK, Recipe, encode_clip
from data_tools.stages.listing import MEDIA
from data_tools.stages.listing_stage import Corpus, ListingStage, Spot
from data_tools.stages.probe import Unusable, bytes_of, looked_at, with_texts
from data_tools.stages.shrink import Shrunk, shrink_picture
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.record import Record, Region

CHUNK = 32
"""Samples of a piece: less than elsewhere, since a clip takes seconds."""
SAMPLE_TIMEOUT_S = 3600.0
"""Seconds after which encoding one clip counts as hung: a clip of two hours may take that long."""
_KEY_LENGTH = 48


@dataclass(frozen=True)
class Transcode:
    """A `Look` that writes the media of its samples anew."""

    recipe: Recipe

    def __call__(self, sample: Sample, spot: Spot) -> Sample:
        try:
            sample = with_texts(sample)
            data, second = bytes_of(sample)
            if sample.media and sample.stream is Task.VIDEO_TEXT:
                data = encode_clip(data, self.recipe)
                sample = replace(sample, media=_written(data, sample, spot, ".mp4"))
            elif sample.media and (shrunk := shrink_picture(data, self.recipe.short_side)):
                data = shrunk.data
                sample = replace(sample, media=_written(data, sample, spot, ".jpg"), record=_scaled(sample.record, shrunk))
            if sample.second and (shrunk := shrink_picture(second, self.recipe.short_side)):
                second = shrunk.data
                sample = replace(sample, second=_written(second, sample, spot, "-second.jpg"))
            return looked_at(sample, data, second)
        except Unusable as error:
            return sample.without(error.reason, error.detail)
        except BadMedia as error:
            return sample.without(Reason.UNREADABLE, str(error))


def transcode_stage(corpus: Corpus, recipe: Recipe) -> ListingStage:
    settings: Mapping[str, str] = {key.replace("_", " "): str(value) for key, value in asdict(recipe).items()} | {"block": str(BLOCK)}
    return ListingStage(name="transcode", corpus=corpus, settings=settings, look=Transcode(recipe), chunk=CHUNK)


def _written(data: bytes, sample: Sample, spot: Spot, ending: str) -> MediaPlace:
    key = re.sub(r"[^A-Za-z0-9_-]", "_", sample.key)[:_KEY_LENGTH]
    name = Path(MEDIA) / f"{spot.chunk:06d}" / f"{spot.number:03d}-{key}{ending}"
    with spot.folder.whole_file(spot.folder.place / name) as file:
        file.write(data)
    return MediaPlace(path=name)


def _scaled(record: Record, shrunk: Shrunk) -> Record:
    """The record with its boxes in the pixels of the picture as it is now."""
    return replace(record, regions=tuple(_scaled_region(region, shrunk) for region in record.regions))


def _scaled_region(region: Region, shrunk: Shrunk) -> Region:
    left, upper, width, height = region.box
    return replace(region, box=(left * shrunk.across, upper * shrunk.down, width * shrunk.across, height * shrunk.down))
