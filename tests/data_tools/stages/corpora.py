"""Small corpora with real media for the stages' tests, and the processes that work on them."""

import io
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_tools.sample import MediaPlace, Sample
from data_tools.splits import Split
from data_tools.stages.listing import chunk_name, finish_listing, read_listing, write_chunk
from data_tools.stages.listing_stage import Corpus, ListingStage
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.stages.probe import look_into
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.work_folder import WORK, WorkFolder
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record
from tests.data.corpus import picture

LIMIT_S = 120
"""Seconds that anything here is waited for."""


def grey_steps(times_ms: Sequence[int], levels: Sequence[int]) -> bytes:
    """An MP4 with a flat grey frame of each level, shown from its time on; the last one for 40 ms."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        for at, level in zip(times_ms, levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base, frame.duration = at, Fraction(1, 1000), 40
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def noise_clip(seed: int, frames: int = 25, size: tuple[int, int] = (96, 64)) -> bytes:
    """An MP4 of coarse noise, 25 frames a second, that no other seed gives."""
    file = io.BytesIO()
    random = np.random.default_rng(seed)
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        coarse = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        for number in range(frames):
            moved = np.roll(coarse, number, 1).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moved), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def turned(clip: bytes) -> bytes:
    """The MP4 with a display matrix that turns it by 90 degrees."""
    matrix = clip.index(b"tkhd") + 44
    one = 0x10000
    return clip[:matrix] + struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000) + clip[matrix + 36 :]


def levels(clip: bytes) -> list[int]:
    """The mean brightness of each frame as it is decoded to RGB."""
    with av.open(io.BytesIO(clip), "r") as container:
        return [round(float(frame.to_ndarray(format="rgb24").mean())) for frame in container.decode(video=0)]


def jpeg(seed: int, size: tuple[int, int] = (48, 48)) -> bytes:
    """Coarse noise, 8 x 6 cells."""
    file = io.BytesIO()
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size, Image.Resampling.NEAREST).save(file, "JPEG", quality=92)
    return file.getvalue()


def image(place: Path, data: bytes, *captions: str, split: Split = Split.TRAIN) -> Sample:
    """A sample over a file that is written at `place`."""
    place.write_bytes(data)
    record = Record(captions=captions or ("a picture of it",), attributes={})
    return Sample(split=split, stream=Task.IMAGE_TEXT, key=place.stem, media=MediaPlace(path=place.absolute()), record=record)


def video(place: Path, data: bytes, *captions: str) -> Sample:
    return replace(image(place, data, *captions), stream=Task.VIDEO_TEXT)


def text(key: str, words: str, split: Split = Split.TRAIN) -> Sample:
    return Sample(split=split, stream=Task.TEXT, key=key, media=None, record=Record(text=words, attributes={}))


def write_listing(folder: Path, samples: Sequence[Sample], chunk: int = 4) -> Path:
    """A listing of these very samples."""
    work = WorkFolder(folder, Part())
    names = []
    with work.begun({}):
        for number, start in enumerate(range(0, len(samples), chunk)):
            write_chunk(work, number, list(samples[start : start + chunk]))
            names.append(chunk_name(number))
        finish_listing(work, {}, names)
    return folder


def mixed_corpus(folder: Path) -> Path:
    """A listing of 20 samples that no stage has looked into: pictures, clips, texts, and bad ones among them."""
    folder.mkdir()
    samples = [image(folder / f"picture{number}.jpg", picture(number)) for number in range(6)]
    samples += [video(folder / f"clip{number}.mp4", noise_clip(number)) for number in range(8)]
    samples += [text(f"text{number}", f"words of text {number}") for number in range(2)]
    samples += [video(folder / "cut.mp4", noise_clip(9)[:700]), image(folder / "empty.jpg", b""), image(folder / "blank.jpg", jpeg(1), " ")]
    samples += [image(folder / "again.jpg", picture(1))]
    return write_listing(folder / "listing", samples)


def listing_corpus(listing: Path) -> Corpus:
    return Corpus(source="listing", annotation=listing, media=Path(), split=Split.TRAIN)


def probe_stage(listing: Path) -> ListingStage:
    return ListingStage(name="probe", corpus=listing_corpus(listing), settings={}, look=look_into, chunk=3)


def probed(listing: Path, out: Path) -> Path:
    assert run_stage(probe_stage(listing), out, Effort()) == 0
    return out


def listed(folder: Path, *samples: Sample) -> Path:
    """A listing of the samples, probed."""
    return probed(write_listing(folder / "samples", samples), folder / "listing")


def pictures(folder: Path, count: int) -> list[Sample]:
    return [image(folder / f"picture{number}.jpg", jpeg(number), f"picture {number}") for number in range(count)]


def packed(listing: Path, out: Path, packing: Packing | None = None) -> int:
    """A listing as shards in `out`; returns what `shard` does."""
    return shard(listing_corpus(listing), out, packing or Packing(), Effort())


def faults(listing: Path) -> dict[str, str]:
    """Reason of each sample that is left out."""
    return {sample.key: str(sample.fault.reason) for sample in read_listing(listing) if sample.fault}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the stage's own."""
    names = {path: path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for path, name in names.items() if not name.parts[0].startswith(WORK)}


def forked(work: Callable[[], object]) -> int:
    """The id of a child in a session of its own that does the work and exits with 0, or 1 where it raises."""
    pid = os.fork()
    if pid:
        wait_for(lambda: os.getpgid(pid) == pid, "session")
        return pid
    status = 1
    try:
        os.setsid()
        work()
        status = 0
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    """The exit status of a child, once it has ended; -N for signal N."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError(f"process {pid} did not end in {LIMIT_S} s")


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, f"no {what} in {LIMIT_S} s"
        time.sleep(0.002)


@contextmanager
def small_file_system(place: Path, size: str) -> Iterator[Path]:
    """A new folder that is a file system of its own, as large as `mount` understands `size`; the test is skipped where none can be had."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
