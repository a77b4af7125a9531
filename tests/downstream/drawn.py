"""Small corpora with labels, drawn and written in the public corpora's own layouts, sharded by their readers."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_tools.classes import write_classes
from data_tools.splits import Split
from megatron_mplug2.config.downstream import Family
from tests.data_tools.sharding import sharded

COLORS = {"red": (210, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 220), "yellow": (230, 210, 50)}
NAMES = tuple(COLORS)
SIDE, FRAMES = 32, 6
TRAIN, HELD_OUT = 96, 48
GOOD, BAD = ("wonderful", "moving", "clever", "funny"), ("dull", "empty", "tired", "noisy")
LISTS = Path(__file__).parents[2] / "configs/finetune/classes"
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = (
    "a an the is are of what does do in picture image video film describe ? . , left right both red green blue yellow n true false "
    "entailment contradiction neutral positive negative wonderful moving clever funny dull empty tired noisy dog sleeps and rather"
)
VOCABULARY = (*_SPECIALS, *_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A corpus in shards."""

    source: str
    train: Path
    held_out: Path
    classes: Path


def painted(color: str, number: int) -> NDArray[np.uint8]:
    """[32, 32, 3] of a colour, its brightness and noise drawn by the number."""
    random = np.random.default_rng(number)
    plain = np.array(COLORS[color]) * random.uniform(0.7, 1.0) + random.normal(0, 20, (SIDE, SIDE, 3))
    return plain.clip(0, 255).astype(np.uint8)


def picture(color: str, number: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(painted(color, number)).save(file, form)
    return file.getvalue()


def clip(color: str, number: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        for time in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(painted(color, 1000 * number + time), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def drawn(family: Family, folder: Path) -> Drawn:
    """The family's corpus in a new folder."""
    return _MAKERS[family](folder)


def _put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _sharded(source: str, folder: Path, train: Path, held_out: Path, media: tuple[Path, Path], stream: str, classes: Path | None) -> Drawn:
    sharded(source, train, media[0], folder / "train", Split.TRAIN)
    sharded(source, held_out, media[1], folder / "held_out", Split.VALIDATION)
    places = folder / "train/train" / stream, folder / "held_out/validation" / stream
    if classes is None:
        write_classes(places[0], folder / "classes.txt")
    return Drawn(source=source, train=places[0], held_out=places[1], classes=classes or folder / "classes.txt")


def _numbers() -> dict[str, range]:
    return {"train": range(TRAIN), "held_out": range(TRAIN, TRAIN + HELD_OUT)}


def _imagenet(folder: Path) -> Drawn:
    synsets = {f"n{place:08d}": name for place, name in enumerate(NAMES)}
    mapping = _put(folder / "LOC_synset_mapping.txt", "".join(f"{synset} {name}\n" for synset, name in synsets.items()))
    by_name, solution = {name: synset for synset, name in synsets.items()}, "ImageId,PredictionString\n"
    for number in range(TRAIN + HELD_OUT):
        name = NAMES[number % len(NAMES)]
        if number < TRAIN:
            _put(folder / "pictures/train" / by_name[name] / f"{number}.JPEG", picture(name, number))
        else:
            _put(folder / f"pictures/val/val_{number}.JPEG", picture(name, number))
            solution += f"val_{number},{by_name[name]} 1 1 9 9\n"
    held_out = _put(folder / "LOC_val_solution.csv", solution)
    return _sharded("imagenet", folder, mapping, held_out, (folder / "pictures/train", folder / "pictures/val"), "image_text", None)


def _kinetics(folder: Path) -> Drawn:
    files = {}
    for part, numbers in _numbers().items():
        split, rows = {"train": "train", "held_out": "validate"}[part], "label,youtube_id,time_start,time_end,split\n"
        for number in numbers:
            name = NAMES[number % len(NAMES)]
            _put(folder / f"clips/clip{number:07d}_000001_000011.mp4", clip(name, number))
            rows += f"{name},clip{number:07d},1,11,{split}\n"
        files[part] = _put(folder / f"{split}.csv", rows)
    clips = folder / "clips"
    return _sharded("kinetics", folder, files["train"], files["held_out"], (clips, clips), "video_text", None)


def _snli_ve(folder: Path) -> Drawn:
    """Whether the picture, of two colours, is red, or something that it does not tell: neither it nor the sentence alone says all."""
    files = {}
    for part, numbers in _numbers().items():
        rows = ""
        for number in numbers:
            label = ("entailment", "contradiction", "neutral")[number % 3]
            name = {"entailment": "red", "contradiction": "blue", "neutral": ("red", "blue")[number % 2]}[label]
            said = "a dog sleeps" if label == "neutral" else "the picture is red"
            _put(folder / f"pictures/{number}.jpg", picture(name, number))
            fields = {"pairID": f"{number}.jpg#0r1", "Flickr30K_ID": str(number), "sentence2": said, "gold_label": label}
            rows += json.dumps(fields) + "\n"
        files[part] = _put(folder / f"snli_ve_{part}.jsonl", rows)
    pictures = folder / "pictures"
    return _sharded("snli_ve", folder, files["train"], files["held_out"], (pictures, pictures), "image_text", LISTS / "snli_ve.txt")


def _nlvr2(folder: Path) -> Drawn:
    """Whether both pictures, of two colours, are red."""
    files = {}
    for part, numbers in _numbers().items():
        split, rows = {"train": "train", "held_out": "dev"}[part], ""
        for number in numbers:
            true = number % 2 == 0
            colors = ("red", "red") if true else (("red", "blue"), ("blue", "red"))[number // 2 % 2]
            for side, name in enumerate(colors):
                _put(folder / f"pictures/{split}-{number}-0-img{side}.png", picture(name, 2 * number + side, "PNG"))
            rows += json.dumps({"identifier": f"{split}-{number}-0-0", "sentence": "both are red", "label": str(true)}) + "\n"
        files[part] = _put(folder / f"{split}.json", rows)
    pictures = folder / "pictures"
    return _sharded("nlvr2", folder, files["train"], files["held_out"], (pictures, pictures), "image_text", LISTS / "nlvr2.txt")


def _sst2(folder: Path) -> Drawn:
    files = {}
    for part, numbers in _numbers().items():
        rows = "sentence\tlabel\n"
        for number in numbers:
            words = np.random.default_rng(number).choice((BAD, GOOD)[number % 2], 2, replace=False)
            rows += f"the film is {words[0]} and rather {words[1]}\t{number % 2}\n"
        files[part] = _put(folder / "SST-2" / {"train": "train.tsv", "held_out": "dev.tsv"}[part], rows)
    return _sharded("glue", folder, files["train"], files["held_out"], (folder, folder), "text", LISTS / "sst2.txt")


_MAKERS: dict[Family, Callable[[Path], Drawn]] = {
    Family.IMAGE_CLASSIFICATION: _imagenet,
    Family.VIDEO_CLASSIFICATION: _kinetics,
    Family.IMAGE_ENTAILMENT: _snli_ve,
    Family.PAIR_ENTAILMENT: _nlvr2,
    Family.TEXT_CLASSIFICATION: _sst2,
}
