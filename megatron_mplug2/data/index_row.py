"""A row of a stream's index: where a sample lies, what it is told apart by, and what its picture or clip is."""

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

KEY_LENGTH = 64
"""Most ASCII characters of a key."""

ROW = np.dtype(
    [
        ("key", f"S{KEY_LENGTH}"),
        ("media_id", "<i8"),
        ("meaning_id", "<i8"),
        ("shard", "<i4"),
        ("media_offset", "<i8"),
        ("media_size", "<i8"),
        ("second_offset", "<i8"),
        ("second_size", "<i8"),
        ("second_id", "<i8"),
        ("record_offset", "<i8"),
        ("record_size", "<i8"),
        ("record_id", "<i8"),
        ("codec", "S12"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("frames", "<i4"),
        ("fps", "<f4"),
        ("duration_s", "<f4"),
        ("variable_rate", "?"),
    ]
)
"""A row of the index. Offsets and sizes in bytes inside the tar, 0 for a member that is not there; `second` is the other picture of a pair
(NLVR2). `media_id`, `second_id` and `record_id` are also the checksums of the members. The rest is `MediaFacts`, zeros for text."""

FACTS = ("width", "height", "frames", "fps", "duration_s", "variable_rate")
"""`MediaFacts` in a row, beside the codec."""


def map_rows(path: Path) -> NDArray[Any]:
    """[samples] of ROW, mapped from an index. Raises OSError, and ValueError where the file is none."""
    try:
        rows = open_memmap(path, mode="r")  # np.load would take a zip or a pickle for one too
    except (TokenError, OverflowError, TypeError) as error:  # what NumPy's reader of heads raises beside ValueError
        raise ValueError(str(error)) from None
    if rows.dtype != ROW or rows.ndim != 1:
        raise ValueError(f"it holds {rows.ndim} dimensions of {str(rows.dtype)[:40]}")
    return rows
