"""Which frames of a clip the model sees, as in the released mPLUG-2 code (reading from decord, `sample='rand'` and `'middle'`)."""

import itertools
from collections.abc import Sequence

import numpy as np


def frame_indices(count: int, frames: int, segment_shares: Sequence[float] | None) -> list[int]:
    """`frames` ascending frame numbers of a clip with `count` frames, one from each of `frames` equal segments.

    `segment_shares` None takes the middle of each segment. Else it holds one number in [0, 1) for each frame, and the choice is a pure
    function of these numbers: uniform over the segment without its last frame, as released. Where a segment has no frame but its last, the
    frames are a random subset of the clip instead, as released. A clip with fewer frames than asked for repeats its last one.

    Raises ValueError for a clip without frames or a wrong number of shares.
    """
    if count < 1 or frames < 1:
        raise ValueError(f"{frames} frames of a clip with {count}")
    if segment_shares is not None and len(segment_shares) != frames:
        raise ValueError(f"{len(segment_shares)} shares for {frames} frames")
    taken = min(frames, count)
    segments = list(itertools.pairwise(np.linspace(0, count, taken + 1).astype(int).tolist()))  # rounds as the released code does
    if segment_shares is None:
        chosen = [(start + end - 1) // 2 for start, end in segments]
    elif all(end - 1 > start for start, end in segments):
        chosen = [start + int(share * (end - 1 - start)) for (start, end), share in zip(segments, segment_shares, strict=False)]
    else:
        chosen = _subset(count, segment_shares[:taken])
    return chosen + chosen[-1:] * (frames - taken)


def _subset(count: int, shares: Sequence[float]) -> list[int]:
    """As many distinct numbers below `count` as there are shares: the start of a Fisher-Yates shuffle, sorted."""
    numbers = list(range(count))
    for place, share in enumerate(shares):
        other = place + int(share * (count - place))
        numbers[place], numbers[other] = numbers[other], numbers[place]
    return sorted(numbers[: len(shares)])
