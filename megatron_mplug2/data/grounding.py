"""Phrases about regions of a picture, with their boxes as what is taught."""

from megatron_mplug2.data.asked import Asked, filled
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.coordinates import box_text, fault_of, in_square, mirrored, uncropped, whole_in_view
from megatron_mplug2.data.decoding.contract import View
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record


def asked_regions(
    record: Record, picture: MediaFacts, drawn: View, resolution: int, rows: int, draws: SampleDraws
) -> tuple[list[Asked], View]:
    """So many rows of drawn phrases, each at most once, and the view in which their boxes lie.

    It is the drawn view, without its crop where that would cut off a box that is asked for. Raises BadSample without a phrase, and for a
    box that is not in the picture.
    """
    phrases = [(region.box, phrase) for region in record.regions for phrase in region.phrases if not is_blank(phrase)]
    if not phrases:
        raise BadSample("no phrase about a region")
    chosen = [phrases[place] for place in draws.order(len(phrases), Purpose.QUESTIONS)[:rows]]
    for box, phrase in chosen:
        fault = fault_of(box, picture)
        if fault is not None:
            raise BadSample(f"{phrase!r}: {fault}")
    view = drawn if all(whole_in_view(box, picture, drawn) for box, _ in chosen) else uncropped(drawn)
    asked = [
        Asked(instruction=mirrored(phrase) if view.flip else phrase, answer=box_text(in_square(box, picture, view, resolution), resolution))
        for box, phrase in chosen
    ]
    return filled(asked, rows), view
