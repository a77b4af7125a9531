"""What an evaluation sees of a picture or a clip: all of it once, or several views whose probabilities are averaged."""

from dataclasses import dataclass

from megatron_mplug2.data.decoding.contract import FULL_VIEW, View

CROP_SHARE = 1 / 1.14**2
"""Area of a crop: the released test resizes to 1.14 times the resolution where it crops [CODE, section 3.3's video pretraining]."""


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    crop: View = FULL_VIEW
    segment_share: float | None = None
    """Place of the frame that is taken in each segment of a clip, in [0, 1); None for its middle."""


WHOLE = EvaluationView()


def evaluation_views(segments: int, crops: int) -> tuple[EvaluationView, ...]:
    """So many choices of frames, evenly spread over each segment of a clip, times one whole view or three crops: left, middle, right."""
    shares = [None] if segments == 1 else [(number + 0.5) / segments for number in range(segments)]
    places = [FULL_VIEW] if crops == 1 else [View(area=CROP_SHARE, x=x, y=0.5, flip=False) for x in (0.0, 0.5, 1.0)]
    return tuple(EvaluationView(crop=crop, segment_share=share) for share in shares for crop in places)
