"""When a clip's frames are shown, from its packets alone: nothing is decoded."""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

_STEADY_S = 0.002
"""Gaps that differ by no more are one rate: times are rounded, often to a millisecond (Matroska, Flash)."""
_LEAP_S = 10
"""A longer gap in a stream that may be put together of several is where one may end: FFmpeg's dts_delta_threshold."""


@dataclass(frozen=True, kw_only=True)
class Packet:
    """A frame as the container lists it."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The presentation times of a clip's frames, ascending, in ticks; 0, 1, 2 ... where the container has none."""

    on_show: Sequence[int]
    """When a person sees them, in ticks: `times` without leaps from one recording to the next, or as well as is known where they are
    counted."""

    times: Sequence[int]
    keys: Sequence[int]
    """Those of the key frames: where decoding can begin."""
    entries: Mapping[int, int]
    """For the time of a key frame its decoding time, which is what MPEG-TS is sought by."""
    tick_s: Fraction
    """Seconds of a tick of `on_show`; 0 where neither times nor a rate are known."""
    last_ticks: int
    """How long the last frame is shown."""
    counted: bool
    """Whether the times are counted: frames are then found by their number out of the decoder, never by seeking."""

    @property
    def duration_s(self) -> float:
        """From the first frame's beginning to the last one's end."""
        return float((self.on_show[-1] - self.on_show[0] + self.last_ticks) * self.tick_s)

    @property
    def variable_rate(self) -> bool:
        """Whether the gaps between frames differ by more than rounding."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(self.on_show)]
        if len(gaps) < 2:
            return False
        spread, mean = max(gaps) - min(gaps), (self.on_show[-1] - self.on_show[0]) / len(gaps)
        return 2 * spread > mean or (spread > 1 and spread * self.tick_s > _STEADY_S)

    def within(self, span_s: tuple[float, float] | None) -> range:
        """Numbers of the frames that come on from `span_s[0]` up to `span_s[1]` seconds after the first frame; where none does, of the
        one that is shown at `span_s[0]`. All frames for None, and where the times are not known."""
        if span_s is None or not self.tick_s:
            return range(len(self.times))
        on_show = self.on_show
        start, end = (bisect.bisect_left(on_show, on_show[0] + seconds / self.tick_s) for seconds in map(_exact, span_s))
        if start < end:
            return range(start, end)
        shown = bisect.bisect_right(on_show, on_show[0] + _exact(span_s[0]) / self.tick_s) - 1
        return range(max(shown, 0), max(shown, 0) + 1)

    def ticks_to(self, time: int) -> int:
        """From the first frame to the one of this time, as a person sees them."""
        place = max(bisect.bisect_right(self.times, time) - 1, 0)
        return self.on_show[place] - self.on_show[0] + time - self.times[place]

    def frames_between(self, earlier: int, later: int) -> int:
        """How many frames come on after `earlier` up to `later`."""
        return bisect.bisect(self.times, later) - bisect.bisect(self.times, earlier)

    def key_before(self, time: int) -> int:
        """The time of the key frame at or before `time`. Where there is none, the first frame's: a clip cut by an edit list begins within a
        group whose key frame is in the file but not shown, and a seek to its first frame lands there."""
        number = bisect.bisect_right(self.keys, time)
        return self.keys[number - 1] if number else self.times[0]


def read_timeline(packets: Sequence[Packet], *, counted: bool, joined: bool, indexed: int, tick_s: Fraction, rate: Fraction) -> Timeline:
    """`joined` says that the stream may be put together of several; `indexed` is how many frames the container's own table lists, where it
    has one; `rate` is frames a second, 0 where unknown.

    Raises ValueError without packets.
    """
    if packets and indexed > len(packets):  # cut off; packets come in decoding order: after the last one's time there may be gaps
        last = packets[-1].dts
        packets = [packet for packet in packets if packet.pts is None or last is None or packet.pts <= last]
    if not packets:
        raise ValueError("no packets")
    shown = {packet.pts: packet for packet in packets if packet.pts is not None}
    if counted or len(shown) < len(packets):
        return _counted(packets, joined, tick_s, rate)
    times = sorted(shown)
    on_show = _without_leaps(shown, tick_s) if joined and tick_s else times
    return Timeline(
        times=times,
        on_show=on_show,
        keys=sorted(time for time, packet in shown.items() if packet.key) or times[:1],
        entries={time: packet.dts for time, packet in shown.items() if packet.key and packet.dts is not None},
        tick_s=tick_s,
        last_ticks=shown[times[-1]].duration or (on_show[-1] - on_show[0]) // max(len(times) - 1, 1),
        counted=False,
    )


def _counted(packets: Sequence[Packet], joined: bool, tick_s: Fraction, rate: Fraction) -> Timeline:
    """Frames come out of the decoder one after the other, each when a packet goes in: number n is on show by the decoding time of packet n,
    of which AVI leaves some out where nothing was recorded; at an even rate where those times are no such."""
    numbers, entries = range(len(packets)), {packet.dts: packet for packet in packets if packet.dts is not None}
    on_show: Sequence[int] = numbers
    last_ticks = 1
    if tick_s and len(entries) == len(packets) and all(earlier < later for earlier, later in itertools.pairwise(entries)):
        on_show = _without_leaps(entries, tick_s) if joined else [*entries]
        last_ticks = packets[-1].duration or (on_show[-1] - on_show[0]) // max(len(packets) - 1, 1)
    else:
        tick_s = 1 / rate if rate else Fraction(0)
    return Timeline(times=numbers, on_show=on_show, keys=(0,), entries={}, tick_s=tick_s, last_ticks=last_ticks, counted=True)


def _without_leaps(packets: Mapping[int, Packet], tick_s: Fraction) -> Sequence[int]:
    """The times of the packets, which come in decoding order, ascending, with leaps made as long as the gap before, or as the one behind at
    the beginning.

    A leap is a long gap behind which decoding begins anew with a key frame; another is a pause of one recording, and stays, as all do
    where no gap is short. A pause that ends on a key frame, with nothing before it left to decode, cannot be told from a leap: it is taken
    for one.
    """
    longest = int(_LEAP_S / tick_s)
    latest = itertools.accumulate(packets, max)
    ends = {before for before, packet in zip(latest, [*packets.values()][1:], strict=False) if packet.key}
    times = sorted(packets)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    usual = next((gap for gap in gaps if gap <= longest), None)
    if usual is None:
        return times
    for place, gap in enumerate(gaps):
        if gap <= longest:
            usual = gap
        elif times[place] in ends:
            gaps[place] = usual
    return [*itertools.accumulate(gaps, initial=times[0])]


def jumps_back(packets: Sequence[Packet]) -> bool:
    """Whether a group of frames begins before the frame that lies in front of it: two clips were put one behind the other, and a time may
    stand for two frames. (A damaged time before a frame that is no key frame does not count.)"""
    return any(
        packet.key and packet.dts is not None and before.dts is not None and packet.dts < before.dts
        for before, packet in itertools.pairwise(packets)
    )


def _exact(seconds: float) -> Fraction:
    """To the microsecond: 0.3 as people mean it, not as a double has it."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)
