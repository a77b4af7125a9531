"""Facts of a picture or a clip."""

import io

from PIL import Image

from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.video_file import VideoFile


def picture_facts(data: bytes) -> MediaFacts:
    with Image.open(io.BytesIO(data)) as image:
        return MediaFacts(codec=(image.format or "").lower(), width=image.width, height=image.height)


def clip_facts(data: bytes) -> MediaFacts:
    with VideoFile(data) as video:
        facts = video.facts
        return MediaFacts(codec="h264", width=facts.width, height=facts.height, frames=facts.frames, fps=facts.fps)
