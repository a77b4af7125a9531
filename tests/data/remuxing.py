"""Clips whose packets are put together anew, as people do with `ffmpeg -c copy`."""

import io
from collections.abc import Callable
from fractions import Fraction

import av
from av.packet import Packet


def remuxed(
    data: bytes,
    *,
    form: str,
    later_s: Fraction = Fraction(0),
    changed: Callable[[int, bytes], bytes] = lambda _, content: content,
    options: dict[str, str] | None = None,
) -> bytes:
    """The clip in a container of this form, all times `later_s` seconds later; `changed` makes new bytes of a packet from its number and
    its bytes."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(file, "w", format=form, options=options or {}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
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
