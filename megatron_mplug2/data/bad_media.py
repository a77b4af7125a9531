"""The exception for a picture or a clip that cannot be used. It concerns one sample, never the run."""


class BadMedia(Exception):  # noqa: N818 (the name says what it is about)
    """The file is empty, unreadable, truncated, damaged where it is needed, too large, or has no picture in it. The text is the reason."""


MAX_PIXELS = 1 << 26
"""Pixels of the largest picture or frame that is decoded whole: 0.2 GB as RGB."""
