"""One picture or clip to a tensor, with PIL and PyAV: to try or to look at a file. The loader decodes whole batches (`decoding`)."""

from collections.abc import Sequence

import torch

from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.contract import FULL_VIEW, ClipRequest, PictureRequest, Transform, View
from megatron_mplug2.data.decoding.pictures import PICTURE_FORMATS
from megatron_mplug2.data.decoding.pyav import decode_clip, decode_picture
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.video_file import VideoFacts, VideoFile

__all__ = [
    "FULL_VIEW",
    "PICTURE_FORMATS",
    "BadMedia",
    "VideoFacts",
    "View",
    "decode_image",
    "decode_video",
    "frame_indices",
    "probe_video",
]


def decode_image(data: bytes, resolution: int, view: View) -> torch.Tensor:
    """A picture as [3, 1, resolution, resolution] uint8. Raises BadMedia."""
    return decode_picture(PictureRequest(data=data, transform=Transform(resolution=resolution, view=view)))


def decode_video(data: bytes, frames: int, resolution: int, view: View, segment_shares: Sequence[float] | None) -> torch.Tensor:
    """A clip as [3, frames, resolution, resolution] uint8; `frame_indices` says which frames.

    Raises BadMedia, for damage only if it hits a frame that is needed.
    """
    transform = Transform(resolution=resolution, view=view)
    return decode_clip(ClipRequest(data=data, frames=frames, segment_shares=segment_shares, transform=transform))


def probe_video(data: bytes) -> VideoFacts:
    """A clip's facts without decoding it. Raises BadMedia."""
    with VideoFile(data) as video:
        return video.facts
