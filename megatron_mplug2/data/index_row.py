"""A row of a stream's index: where a sample lies, what it is told apart by, and what its picture or clip is."""

import numpy as np

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
