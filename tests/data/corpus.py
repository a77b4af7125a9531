"""Small corpora with real media for the loader's tests, and configs over them."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.index_row import ROW
from megatron_mplug2.data.manifest import INDEX, MANIFEST, Header, MediaKind, Shard, content_id
from megatron_mplug2.data.record import Question, Record

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "circle",
    "square",
    "triangle",
    "moves",
    "left",
    "right",
    "up",
    "down",
    "what",
    "color",
    "shape",
    "is",
    "the",
    "does",
    "image",
    "video",
    "describe",
    "?",
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


@dataclass(frozen=True, kw_only=True)
class Sample:
    key: str
    media: bytes
    record: Record
    second: bytes = b""
    """The other picture of a pair."""
    size: tuple[int, int] = (0, 0)
    """Width and height in the index, where something asks for them."""


def write_stream(folder: Path, kind: MediaKind, samples: Sequence[Sample], per_tar: int = 1000) -> Path:
    """A folder as `mplug2 data shard` makes it."""
    folder.mkdir(parents=True)
    rows = np.zeros(len(samples), dtype=ROW)
    shards: list[Shard] = []
    for start in range(0, len(samples), per_tar):
        part = samples[start : start + per_tar]
        rows[start : start + per_tar], shard = _write_tar(folder, len(shards), part)
        shards.append(shard)
    np.save(folder / INDEX, rows)
    digest = sha256((folder / INDEX).read_bytes()).hexdigest()
    (folder / MANIFEST).write_bytes(Header(kind=kind, samples=len(samples), index_sha256=digest, shards=tuple(shards)).to_json())
    return folder


def _write_tar(folder: Path, number: int, samples: Sequence[Sample]) -> tuple[NDArray[np.void], Shard]:
    """Its rows of the index, and its line in the manifest."""
    path = folder / f"{number:05}.tar"
    rows = np.zeros(len(samples), dtype=ROW)
    with tarfile.open(path, "w") as tar:
        for place, sample in enumerate(samples):
            text = sample.record.to_json()
            media, record = (_add(tar, f"{sample.key}.{form}", data) for form, data in (("bin", sample.media), ("json", text)))
            second = (_add(tar, f"{sample.key}.second.bin", sample.second), len(sample.second)) if sample.second else (0, 0)
            media_id = content_id("media", sample.media or text)
            meaning = content_id("meaning", repr(sample.record.captions).encode())
            identity = (sample.key.encode(), media_id, meaning, number, media, len(sample.media))
            other = (*second, content_id("second", sample.second) if sample.second else 0)
            rows[place] = (*identity, *other, record, len(text), content_id("record", text), b"", *sample.size, 0, 0.0, 0.0, False)
    content = path.read_bytes()
    return rows, Shard(name=path.name, size=len(content), sha256=sha256(content).hexdigest())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Where the data lie in the tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    start = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(data))
    return start


def picture(number: int, side: int = 48) -> bytes:
    """A JPEG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(side // 6, 0).repeat(side // 6, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def clip(number: int, frames: int = 8, side: int = 48) -> bytes:
    """An MP4 that no other number gives."""
    random = np.random.default_rng(number)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        for time in range(frames):
            pixels = random.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(side // 6, 0).repeat(side // 6, 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def sentence(number: int, words: int) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, words))


def pair(number: int, media: bytes, captions: int = 2, questions: int = 2) -> Sample:
    return Sample(
        key=f"pair-{number:04d}",
        media=media,
        record=Record(
            captions=tuple(sentence(1000 * number + place, 6) for place in range(captions)),
            questions=tuple(
                Question(question=f"what {WORDS[1 + place]} ?", answer=WORDS[4 + place], kind="test", reversed_answer=None)
                for place in range(questions)
            ),
            attributes={},
        ),
    )


def document(number: int, words: int) -> Sample:
    return Sample(key=f"text-{number:04d}", media=b"", record=Record(text=sentence(number, words), attributes={}))


def write_corpus(folder: Path, *, texts: int = 30, images: int = 21, videos: int = 11) -> None:
    """Streams of the three kinds and a vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    write_stream(folder / "text", MediaKind.TEXT, [document(number, 4 + number) for number in range(texts)])
    write_stream(folder / "image_text", MediaKind.IMAGE, [pair(number, picture(number)) for number in range(images)])
    write_stream(folder / "video_text", MediaKind.VIDEO, [pair(number, clip(number)) for number in range(videos)])


def make_config(corpus: Path, run_dir: Path, **changes: Any) -> RunConfig:
    """A config over `write_corpus`; `changes` are dotted keys with `__` for the dot."""
    folders = {stream: [str(corpus / stream)] for stream in ("text", "image_text", "video_text")}
    tree: dict[str, Any] = {
        "name": "test",
        "run_dir": str(run_dir),
        "model": {
            "vision": {"width": 32, "blocks": 1, "heads": 2, "ffn": 64, "patch": 8, "resolution": 32},
            "text": {"hidden": 32, "heads": 2, "ffn": 64, "layers": 3, "vocab_size": 64},
            "fusion_layers": 1,
            "decoder_layers": 1,
        },
        "data": {
            "vocab": str(corpus / "vocab.txt"),
            "train": folders,
            "validation": folders,
            "test": folders,
            "text_length": 10,
            "document_length": 16,
            "target_length": 9,
            "workers": 0,
            "prefetch": 3,
            "bad_sample_limit": 1.0,
        },
        "schedule": [
            {"steps": 6, "text": 0.4, "image_text": 0.6, "frames": 2, "resolution": 16},
            {"steps": 8, "text": 0.2, "image_text": 0.2, "video_text": 0.6, "frames": 3, "resolution": 24},
        ],
        "training": {"global_batch": 8, "microbatch": 2, "seed": 5},
        "objectives": {"vlm": {"group": 2}, "lm": {"instructions": 2}},
        "optimizer": {"warmup_steps": 1},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return RunConfig.model_validate(json.loads(json.dumps(tree)))
