"""One picture or clip to a tensor, with PIL and PyAV: to try or to look at a file. The loader decodes whole batches (`decoding`)."""

from collections.abc import Sequence

import torch

from megatron_mplug2.data.decoding.contract import ClipRequest, PictureRequest, Transform, View
from megatron_mplug2.data.decoding.pyav import decode_clip, decode_picture


def decode_image(data: bytes, resolution: int, view: View) -> torch.Tensor:
    """A picture as [3, 1, resolution, resolution] uint8. Raises BadMedia."""
    return decode_picture(PictureRequest(data=data, transform=Transform(resolution=resolution, view=view)))


def decode_video(data: bytes, frames: int, resolution: int, view: View, segment_shares: Sequence[float] | None) -> torch.Tensor:
    """A clip as [3, frames, resolution, resolution] uint8; `frame_indices` says which frames.

    Raises BadMedia, for damage only if it hits a frame that is needed.
    """
    transform = Transform(resolution=resolution, view=view)
    return decode_clip(ClipRequest(data=data, frames=frames, segment_shares=segment_shares, transform=transform))
