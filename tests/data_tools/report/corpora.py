"""Shards whose contents are known, and hostile ones."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Record
from tests.data.corpus import Sample, clip, document, pair, picture, write_stream
from tests.data.media import grey_clip

RIGHT_TO_LEFT = "\N{RIGHT-TO-LEFT OVERRIDE}"
HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    '"><style>body{display:none}</style></figcaption></html>',
    f"{RIGHT_TO_LEFT}sdrawkcab\x00\x1b[31m",
    "half a character \ud800",
    "word " * 2_000_000,
    "x" * 5000,
    "Z" + "\N{COMBINING ACUTE ACCENT}" * 150,
)


class AsciiRecord(Record):
    """As a foreign program may write it: with half a character, which is no UTF-8."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def flat_picture(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), color, np.uint8)).save(file, "PNG")
    return file.getvalue()


def captioned(key: str, media: bytes, caption: str) -> Sample:
    return Sample(key=key, media=media, record=Record(captions=(caption,), attributes={}))


def write_known_corpus(folder: Path) -> Path:
    """Two flat pictures, a clip that gets brighter, and a document."""
    pictures = [captioned("red", flat_picture((200, 0, 0)), "a red wall"), captioned("blue", flat_picture((0, 0, 200)), "the blue wall")]
    write_stream(folder / "train" / "image_text", MediaKind.IMAGE, pictures)
    brighter = grey_clip([20, 20, 20, 90, 90, 90, 160, 160, 160, 230, 230, 230])
    write_stream(folder / "train" / "video_text", MediaKind.VIDEO, [captioned("brighter", brighter, "it gets brighter & brighter")])
    texts = [Sample(key="text", media=b"", record=Record(text="the wall of the castle", attributes={}))]
    write_stream(folder / "test" / "text", MediaKind.TEXT, texts)
    return folder


def write_hostile_corpus(folder: Path) -> Path:
    """Captions that would break a page, on good media and on some that cannot be decoded."""
    captions = [AsciiRecord(captions=(text,), attributes={}) for text in HOSTILE]
    pictures = [Sample(key=f"{number}{'k' * 50}", media=picture(number), record=record) for number, record in enumerate(captions)]
    broken = replace(pair(99, b"no picture"), key="<b>broken</b>")
    write_stream(folder / "train" / "image_text", MediaKind.IMAGE, [*pictures, broken])
    write_stream(folder / "train" / "video_text", MediaKind.VIDEO, [pair(number, clip(number)) for number in range(4)])
    write_stream(folder / "train" / "text", MediaKind.TEXT, [replace(document(0, 5), record=AsciiRecord(text=HOSTILE[4], attributes={}))])
    return folder
