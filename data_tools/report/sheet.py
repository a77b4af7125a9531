"""The contact sheet: samples as the model sees them, through the loader's own decoder, as pictures inside the page."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from data_tools.report.contents import Pick
from megatron_mplug2.config.data import DataConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.coordinates import fault_of, in_square
from megatron_mplug2.data.decode import decode_image, decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW, View
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.probing import picture_facts
from megatron_mplug2.data.record import Region
from megatron_mplug2.data.samples import draw_view
from megatron_mplug2.pages.boxes import BoxKind, DrawnBox, boxed
from megatron_mplug2.pages.markup import apart, shown
from megatron_mplug2.pages.picture import levels, picture_source

SIDE = 160
"""Pixels of a decoded square."""
FRAMES = 4
"""Of a clip."""
VIEWS = 8
"""Training views of one sample."""
MOST_BYTES = 3_500_000
"""Of all pictures in a page, as it holds them."""
_SHOWN_CAPTIONS = 2


class Sheet:
    """Makes figures until the page is full."""

    def __init__(self) -> None:
        self._bytes = 0

    @property
    def full(self) -> bool:
        return self._bytes >= MOST_BYTES

    def figures(self, picks: Sequence[Pick]) -> str:
        """Each sample with its texts, in full view, a clip with its middle frames, a picture with the box of its first region."""
        return f'<div class="sheet">{"".join(self._figure(pick) for pick in picks if not self.full)}</div>'

    def views(self, picks: Sequence[Pick]) -> str:
        """The first sample that can be decoded as training sees it in its first epochs: crops drawn with the default settings; of a clip
        one frame each time."""
        for pick in picks:
            tiles = ""
            for epoch in range(VIEWS):
                draws = SampleDraws(seed=0, task=pick.task, epoch=epoch, index=pick.index)
                view, shares = draw_view(draws, DataConfig(vocab=Path())), draws.uniforms(1, Purpose.FRAMES).tolist()
                with suppress(OSError, BadMedia):
                    tiles += self._tiles(pick, 1, view, shares)
            if tiles:
                return f'<div class="views">{tiles}</div>'
        return ""

    def _figure(self, pick: Pick) -> str:
        record = pick.record
        texts = [*record.captions[:_SHOWN_CAPTIONS], record.text, *([record.label] if record.label else [])]
        texts += [f"{question.question} {question.answer}" for question in record.questions[:1]]
        texts += [phrase for region in record.regions[:1] for phrase in region.phrases[:_SHOWN_CAPTIONS]]
        lines = "".join(f"<p>{apart(text)}</p>" for text in texts if text)
        strip = ""
        if pick.task is not Task.TEXT:
            try:
                strip = f'<div class="strip">{self._tiles(pick, FRAMES, FULL_VIEW, None)}</div>'
            except (OSError, BadMedia) as error:
                strip = f'<p class="bad">not decoded: {shown(error)}</p>'
        return f'<figure class="{pick.task}">{strip}<figcaption>{lines}<small>{shown(pick.key, 80)}</small></figcaption></figure>'

    def _tiles(self, pick: Pick, frames: int, view: View, shares: list[float] | None) -> str:
        """Raises OSError or BadMedia where there is nothing to show."""
        data = pick.read()
        clip = pick.task is Task.VIDEO_TEXT
        decoded = decode_video(data, frames, SIDE, view, shares) if clip else decode_image(data, SIDE, view)
        size = f'width="{SIDE}" height="{SIDE}"'
        tiles = "".join(f'<img src="{picture_source(levels(frame))}" {size} alt="">' for frame in decoded.unbind(1))
        self._bytes += len(tiles)
        return tiles if clip or view != FULL_VIEW or not pick.record.regions else _with_region(tiles, pick.record.regions[0], data)


def _with_region(picture: str, region: Region, data: bytes) -> str:
    """The picture with the region's box, where that lies in it. Raises BadMedia."""
    facts = picture_facts(data)
    if fault_of(region.box, facts) is not None:
        return picture
    return boxed(picture, [DrawnBox(kind=BoxKind.RIGHT, box=in_square(region.box, facts, FULL_VIEW, SIDE))], SIDE)
