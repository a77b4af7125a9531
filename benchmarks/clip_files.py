"""Material for the loader's benchmark: clips as a corpus has them, the same transcoded, and both in shards."""

import json
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_tools.splits import Split
from data_tools.stages.encode import Recipe
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.transcode import transcode_stage

SIZES = ((320, 240), (480, 360), (640, 360))
SECONDS, RATE = 5, 25
FEW_FPS = 3
"""What pretraining on clips gets along with (InternVideo's recipe): 15 frames of 5 s, of which the loader takes 8."""
TARS = 4
"""webdataset deals tars to its workers."""
CAPTION = "a wall of many colors passes by while it rains"


@dataclass(frozen=True, kw_only=True)
class Material:
    """The same clips as files and in shards."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    """One a tar."""

    @property
    def tars(self) -> list[str]:
        return [str(tar) for folder in self.folders for tar in sorted(folder.glob("*.tar"))]

    @property
    def megabytes(self) -> float:
        return sum(file.stat().st_size for file in self.files) / 1e6


def make_material(folder: Path, clips: int) -> dict[str, Material]:
    """As found: key frames as x264 sets them by default. Transcoded: as `mplug2 data transcode` does by default."""
    media = folder / "clips"
    media.mkdir(parents=True)
    names = [f"clip{number:04d}.mp4" for number in range(clips)]
    for number, name in enumerate(names):
        _draw_clip(media / name, number)
    found, transcoded = [], []
    for tar in range(TARS):
        annotation = folder / f"list{tar}.json"
        annotation.write_text(json.dumps([{"video_id": name, "caption": CAPTION} for name in names[tar::TARS]]))
        found.append(_shard("albef", annotation, folder / f"found{tar}", "--media", media))
        _data("transcode", "albef", annotation, "--media", media, "--out", folder / f"transcoded{tar}", "--workers", 2)
        transcoded.append(_shard("listing", folder / f"transcoded{tar}", folder / f"small{tar}"))
    return {
        "as_found": Material(files=tuple(sorted(media.glob("*.mp4"))), folders=tuple(found)),
        "transcoded": Material(files=tuple(sorted(folder.glob("transcoded*/media/**/*.mp4"))), folders=tuple(transcoded)),
    }


def make_transcoded(folder: Path, clips: int, processes: int) -> Path:
    """The same clips transcoded alone, to FEW_FPS frames a second, by as many processes: the folder of their only shard."""
    media = folder / "clips"
    media.mkdir(parents=True)
    names = [f"clip{number:04d}.mp4" for number in range(clips)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(_draw_clip, [media / name for name in names], range(clips)))
    annotation = folder / "list.json"
    annotation.write_text(json.dumps([{"video_id": name, "caption": CAPTION} for name in names]))
    corpus = Corpus(source="albef", annotation=annotation, media=media, split=Split.TRAIN)
    small = folder / "transcoded"
    stage = replace(transcode_stage(corpus, Recipe(fps=FEW_FPS)), chunk=-(-clips // processes))  # a process does a whole piece
    run_stage(stage, small, Effort(workers=processes))
    shard(Corpus(source="listing", annotation=small, media=Path(), split=Split.TRAIN), folder / "small", Packing(), Effort())
    return folder / "small" / Split.TRAIN / "video_text"


def _draw_clip(file: Path, number: int) -> None:
    """H.264 of a coloured texture that moves under noise."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    texture = rng.integers(0, 256, (height // 16 + 40, width // 16 + 40, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    noise = rng.integers(0, 24, (8, height, width, 3), dtype=np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for time in range(SECONDS * RATE):
            left, upper = 4 * time, 3 * time
            pixels = texture[upper : upper + height, left : left + width] // 2 + noise[time % len(noise)]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _shard(source: str, annotation: Path, out: Path, *more: object) -> Path:
    _data("shard", source, annotation, "--out", out, *more)
    return out / "train" / "video_text"


def _data(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "megatron_mplug2.cli", "data", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
