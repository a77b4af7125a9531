"""Which frames of an open clip a request takes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.data.decoding.contract import ClipRequest
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.video_file import VideoFile


def chosen_frames(video: VideoFile, request: ClipRequest) -> list[int]:
    """`request.frames` ascending frame numbers of the clip; of its span where there is one."""
    span = range(video.facts.frames) if request.span_s is None else video.timeline.within(request.span_s)
    return [span.start + number for number in frame_indices(len(span), request.frames, request.segment_shares)]


def read_frames(video: VideoFile, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
    """A frame for each number, upright, [H, W, 3]. Raises BadMedia, for damage only if it hits a frame that is needed."""
    pictures = dict(video.pictures(indices))
    return [pictures[index] for index in indices]
