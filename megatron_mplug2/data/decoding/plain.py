"""Which files DALI may be given: those that it shows as PyAV and PIL do.

DALI does not turn clips, converts all with the matrix of BT.601, counts frames that an edit leaves out, and drops transparency; nvJPEG
shows a cut-off JPEG as a whole one, and gives a clip's frames the size that its container tells, the rest of it black. PyAV and PIL take
whatever is not plain. So the same samples are bad with either.

On a GPU, DALI 2.4 keeps NVDEC's decoders for later clips, and looks for one by the size that a clip is coded in among the sizes that others
are shown in. One of 640x360 is coded in whole blocks, as 640x368: it gets a new decoder, which takes 50 ms, or that of a clip that is shown
as 640x368, whose colours DALI then seeks eight rows off. So one of two such heights is not plain there, whatever came before.
"""

import io
from collections.abc import Set

from av.video.frame import VideoFrame
from PIL import Image

from megatron_mplug2.data.decoding.pictures import PICTURE_FORMATS
from megatron_mplug2.data.video_file import VideoFile

CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})  # measured with DALI 2.4: its FFmpeg leaves the others out
GPU_CODECS = frozenset({"h264", "hevc", "vp8", "vp9"})  # DALI 2.4: no AV1, and MPEG-4 of odd sizes comes out wrong

_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_BT601 = {2, 5, 6}  # AVCOL_SPC: not said, which means BT.601 here as in swscale; BT.470BG; SMPTE 170M
_LIMITED = {0, 1}  # AVCOL_RANGE: not said, limited
_BLOCK = 16
_PADDED = {270, 360, 540, 1080}
"""Heights of 16:9 that are coded with more rows, and are more common than those that have as many to show, which are left to PyAV."""
_LARGEST = 1 << 23
"""Pixels of a picture: PIL reads a larger JPEG at a fraction of its size, which costs less memory and time."""
_ORIENTATION, _UPRIGHT = 0x0112, (None, 1)  # EXIF


def plain_picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a whole baseline or progressive JPEG, upright, in YCbCr or grey, of a moderate size; None for any other."""
    if not (data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as image:
            plain = (
                image.format == "JPEG"
                and image.mode in ("RGB", "L")
                and image.info.get("adobe_transform") != 0  # stored as RGB
                and image.width * image.height <= _LARGEST
                and image.getexif().get(_ORIENTATION) in _UPRIGHT
            )
            return image.size if plain else None
    except Exception:  # PIL's readers raise whatever a damaged file leads them to
        return None


def is_plain_clip(video: VideoFile, codecs: Set[str]) -> bool:
    """Decodes the first frame, and looks into the headers of all. Raises BadMedia where none can be decoded."""
    timeline = video.timeline
    listed = video.codec in codecs and video.container in _CONTAINERS and video.alone and video.whole
    if not listed or timeline.counted or timeline.keys[0] != timeline.times[0]:
        return False
    frame = video.first_frame()
    sized = video.told_size() == (frame.width, frame.height) and video.keeps_its_form()
    return sized and _is_plain_frame(frame, jpeg=video.codec == "mjpeg")


def has_own_decoder(height: int) -> bool:
    """Whether NVDEC's decoder for frames of so many rows cannot be one that DALI made for others."""
    return height in _PADDED or (height % _BLOCK == 0 and all(height - padded not in range(_BLOCK) for padded in _PADDED))


def _is_plain_frame(frame: VideoFrame, *, jpeg: bool) -> bool:
    upright = not frame.rotation and not frame.interlaced_frame
    even = frame.width % 2 == frame.height % 2 == 0
    colors = frame.format.name == "yuvj420p" if jpeg else frame.format.name == "yuv420p" and frame.color_range in _LIMITED
    return upright and even and colors and frame.colorspace in _BT601
