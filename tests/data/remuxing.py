"""Clips whose packets are put together anew, as people do with `ffmpeg -c copy`."""

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction

import av
from av.packet import Packet
from av.stream import Disposition


def remuxed(
    data: bytes,
    *,
    form: str,
    later_s: Fraction = Fraction(0),
    changed: Callable[[int, bytes], bytes] = lambda _, content: content,
    options: dict[str, str] | None = None,
    texts: dict[str, str] | None = None,
) -> bytes:
    """The clip in a container of this form, all times `later_s` seconds later; `changed` makes new bytes of a packet from its number and
    its bytes; `texts` are its title, comment ..."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(file, "w", format=form, options=options or {}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        container.metadata.update(texts or {})
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.dts is not None]
        for number, packet in enumerate(packets):
            copy = Packet(changed(number, bytes(packet)))
            assert packet.time_base and packet.pts is not None and packet.dts is not None
            ticks = int(later_s / packet.time_base)
            copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts + ticks, packet.dts + ticks, packet.duration, packet.time_base
            copy.stream, copy.is_keyframe = stream, packet.is_keyframe
            container.mux(copy)
    return file.getvalue()


def cut(data: bytes, first_s: Fraction) -> bytes:
    """As `ffmpeg -ss FIRST -c copy` cuts an MP4: an edit list leaves out what comes before, up to the key frame that it needs."""
    return remuxed(data, form="mp4", later_s=-first_s, options={"avoid_negative_ts": "disabled"})


def with_late_sound(flash: bytes, second: int) -> bytes:
    """The Flash clip with sound behind its frames: a tag of type 8 with 16-bit mono samples at 44.1 kHz (FLV 10.1, annex E.4)."""
    body = b"\x3e" + bytes(200)
    ticks = (second * 1000).to_bytes(4, "big")
    tag = b"\x08" + len(body).to_bytes(3, "big") + ticks[1:] + ticks[:1] + bytes(3) + body
    return flash + tag + len(tag).to_bytes(4, "big")


def joined(parts: Sequence[bytes], *, form: str) -> bytes:
    """Clips of 8 frames a second one behind the other in the first one's stream, each packet as it was."""
    file, begin = io.BytesIO(), 0
    with av.open(file, "w", format=form) as container, av.open(io.BytesIO(parts[0]), "r") as first:
        stream = container.add_stream_from_template(first.streams.video[0])
        for part in parts:
            with av.open(io.BytesIO(part), "r") as source:
                packets = [packet for packet in source.demux(source.streams.video[0]) if packet.pts is not None]
                for packet in packets:
                    copy = Packet(bytes(packet))
                    assert packet.pts is not None and packet.time_base
                    copy.pts = copy.dts = begin + round(8 * packet.pts * packet.time_base)
                    copy.duration, copy.time_base, copy.stream, copy.is_keyframe = 1, Fraction(1, 8), stream, packet.is_keyframe
                    container.mux(copy)
            begin += len(packets)
    return file.getvalue()


def side_by_side(parts: Sequence[bytes], *, form: str, shown: int) -> bytes:
    """Clips as streams of one file, of which number `shown` is the default, or none for -1."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container, ExitStack() as opened:
        sources = [opened.enter_context(av.open(io.BytesIO(part), "r")) for part in parts]
        streams = [container.add_stream_from_template(source.streams.video[0]) for source in sources]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == shown else Disposition(0)
        for source, stream in zip(sources, streams, strict=True):
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    container.mux(packet)
    return file.getvalue()
