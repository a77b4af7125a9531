"""Facts of a picture or a clip for the index. They are cheap: a picture's header, a clip's packets and its first sound frame."""

import io

from PIL import Image, UnidentifiedImageError

from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.pictures import PICTURE_FORMATS
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.upright import quarter_turns
from megatron_mplug2.data.video_file import VideoFile

_ORIENTATION = 0x0112  # EXIF; 5 to 8 lie on their side
_LYING = range(5, 9)


def picture_facts(data: bytes) -> MediaFacts:
    """Raises BadMedia where the header is not a picture's; what follows it is not read."""
    if not data:
        raise BadMedia("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            width, height = image.size
            return MediaFacts(
                codec=str(image.format).lower(),
                width=height if _lies(image) else width,
                height=width if _lies(image) else height,
            )
    except UnidentifiedImageError:  # its own text names an address in memory, which would make every listing another one
        raise BadMedia("not a readable picture: of no known format") from None
    except Exception as error:  # PIL's readers raise whatever a damaged file leads them to
        raise BadMedia(f"not a readable picture: {str(error) or type(error).__name__}") from None


def clip_facts(data: bytes) -> MediaFacts:
    """Raises BadMedia where there is no clip or none of its frames can be decoded."""
    with VideoFile(data) as video:
        facts, timeline = video.facts, video.timeline
        frame, seconds = video.first_frame(), timeline.duration_s
        lies = quarter_turns(frame) % 2 == 1
        return MediaFacts(
            codec=video.codec,
            width=frame.height if lies else frame.width,
            height=frame.width if lies else frame.height,
            frames=facts.frames,
            fps=len(timeline.times) / seconds if timeline.variable_rate and seconds else facts.fps,
            duration_s=seconds,
            variable_rate=timeline.variable_rate,
        )


def _lies(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION) in _LYING
    except Exception:  # damaged EXIF does not spoil the picture
        return False
