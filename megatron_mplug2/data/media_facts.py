"""What is known of a picture or a clip without looking at it again."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """Facts of one file, found by `mplug2 data probe` and kept in the index."""

    codec: str
    """FFmpeg's name of a clip's codec ("h264"), PIL's of a picture's format in lower case ("jpeg")."""
    width: int
    """Pixels of the upright picture or frame."""
    height: int
    frames: int = 1
    fps: float = 0.0
    """Frames a second on average; 0 for a picture, and where a clip does not say."""
    duration_s: float = 0.0
    """Seconds from the first frame's beginning to the last one's end; 0 for a picture."""
    variable_rate: bool = False
    """Whether the gaps between a clip's frames differ by more than rounding."""
