"""Whether a file is a picture or a clip, by its content, whatever its name says."""

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.probing import picture_facts
from megatron_mplug2.data.video_file import VideoFile


def task_of(data: bytes) -> Task:
    """The task that takes it; a GIF of several frames is a clip. Its header is looked at, not its pixels. Raises BadMedia for neither."""
    try:
        codec = picture_facts(data).codec
    except BadMedia:
        _clip_frames(data)
        return Task.VIDEO_TEXT
    return Task.VIDEO_TEXT if codec == "gif" and _clip_frames(data) > 1 else Task.IMAGE_TEXT


def _clip_frames(data: bytes) -> int:
    try:
        with VideoFile(data) as video:
            return video.facts.frames
    except BadMedia as bad:
        raise BadMedia(f"neither a picture nor a clip that can be read ({bad})") from None
