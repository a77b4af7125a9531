"""What a person chooses by name on the command line. Imports nothing, so that help is quick."""

from enum import StrEnum


class Encoder(StrEnum):
    """FFmpeg's names. The NVENC ones need an NVIDIA GPU; only the software ones promise the same bytes on every machine."""

    X264 = "libx264"
    X265 = "libx265"
    H264_NVENC = "h264_nvenc"
    HEVC_NVENC = "hevc_nvenc"


class Duplicates(StrEnum):
    """What counts as the same sample again."""

    KEEP = "keep"
    """Nothing."""
    CONTENT = "content"
    """The same bytes of media; of text, the same record."""
    LOOK = "look"
    """The same bytes, or nearly the same perceptual hash in the same stream."""


MOST_LOOK_DISTANCE = 7
"""Bits. With more, `NearHashes` compares every hash with a large part of all others."""
