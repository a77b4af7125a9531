"""How fast shards are written: by `mplug2 data shard` from a listing, by webdataset's `ShardWriter`, and by the disk alone, which gets the
bytes of our tars from memory.

    python -m benchmarks.shard

2,400 pictures of about 100 kB and 240 clips of about 1 MB, 480 MB in all; noise, since no one decodes them here. Everyone reads the same
files, ends with `fsync`, and has the same bounds of a tar; ours also checks each file against the listing, and writes digests, index and
manifest. They take turns, so that whatever else the machine does hits all alike.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset

from benchmarks.record import spread, write
from data_tools.sample import Look, MediaPlace, Sample
from data_tools.splits import Split
from data_tools.stages.listing import CHUNK, chunk_name, finish_listing, read_listing, write_chunk
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from data_tools.stages.work_folder import WorkFolder
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import content_id
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record

PICTURES, CLIPS = 2_400, 240
PICTURE_BYTES, CLIP_BYTES = 100_000, 1_000_000
PACKING = Packing(shard_mb=64)
ROUNDS, WARMUP = 6, 1
CORES = len(os.sched_getaffinity(0))
CASES = ("ours", f"ours_{CORES}_processes", "webdataset_shard_writer", "disk_alone")


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        listing = _listing(place / "media", place / "listing")
        seconds = _measure(listing, place)
        megabytes = _bytes_of(place / CASES[0]) / 1e6
    figures: dict[str, object] = {name: spread(times) | {"mb_per_s": _rate(megabytes, times)} for name, times in seconds.items()}
    disk = _rate(megabytes, seconds["disk_alone"])
    figures |= {f"{name}_over_disk": round(_rate(megabytes, times) / disk, 3) for name, times in seconds.items() if name != "disk_alone"}
    case = {"pictures": PICTURES, "clips": CLIPS, "mb": round(megabytes), "shard_mb": PACKING.shard_mb, "load_before": load}
    path = write("shard", "python -m benchmarks.shard", case, figures)
    for name, times in seconds.items():
        print(f"{name:24} {_rate(megabytes, times):8.1f} MB/s")
    print(f"written to {path}")


def _measure(listing: Path, place: Path) -> dict[str, list[float]]:
    """Seconds of each round by case; the folder of the first case stays."""
    corpus = Corpus(source="listing", annotation=listing, media=Path(), split=Split.TRAIN)
    shard(corpus, place / CASES[0], PACKING, Effort())
    cases: dict[str, Callable[[Path], object]] = {
        "ours": lambda out: shard(corpus, out, PACKING, Effort()),
        f"ours_{CORES}_processes": lambda out: shard(corpus, out, PACKING, Effort(workers=CORES)),
        "webdataset_shard_writer": lambda out: _webdataset(listing, out),
        "disk_alone": _disk_alone(place / CASES[0]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(WARMUP + ROUNDS):
        for name, case in cases.items():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                os.sync()
                start = time.perf_counter()
                case(Path(folder) / "out")
                if number >= WARMUP:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def _webdataset(listing: Path, out: Path) -> None:
    """In the listing's order: `ShardWriter` does not shuffle."""
    out.mkdir()
    pattern, bounds = f"{out}/%s-%%06d.tar", {"maxsize": PACKING.shard_mb << 20, "maxcount": PACKING.shard_samples}
    writers = {task: webdataset.ShardWriter(pattern % task, **bounds, verbose=0) for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT)}
    for sample in read_listing(listing):
        assert sample.media is not None
        texts = sample.record.to_json()
        writers[sample.stream].write({"__key__": sample.key, sample.media.extension[1:]: sample.media.read(), "json": texts})
    for writer in writers.values():
        writer.close()
    for tar in out.iterdir():
        _sync(tar)


def _disk_alone(shards: Path) -> Callable[[Path], None]:
    contents = [tar.read_bytes() for tar in sorted(shards.rglob("*.tar"))]

    def write_all(out: Path) -> None:
        out.mkdir()
        for number, data in enumerate(contents):
            path = out / f"{number}.tar"
            path.write_bytes(data)
            _sync(path)

    return write_all


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _listing(media: Path, place: Path) -> Path:
    """Writes the files, and a listing that has looked into them."""
    media.mkdir()
    rng = np.random.default_rng(0)
    sizes = [(Task.IMAGE_TEXT, PICTURE_BYTES)] * PICTURES + [(Task.VIDEO_TEXT, CLIP_BYTES)] * CLIPS
    samples = [_sample(media, number, stream, rng.bytes(int(size * rng.uniform(0.5, 1.5)))) for number, (stream, size) in enumerate(sizes)]
    folder = WorkFolder(place, Part())
    with folder.begun({}):
        starts = range(0, len(samples), CHUNK)
        for number, start in enumerate(starts):
            write_chunk(folder, number, samples[start : start + CHUNK])
        finish_listing(folder, {}, [chunk_name(number) for number in range(len(starts))])
    return place


def _sample(media: Path, number: int, stream: Task, data: bytes) -> Sample:
    path = (media / f"{number:06d}{'.jpg' if stream is Task.IMAGE_TEXT else '.mp4'}").absolute()
    path.write_bytes(data)
    facts = MediaFacts(codec="noise", width=640, height=360)
    look = Look(facts=facts, size=len(data), media_id=content_id("media", data), look_hash=0)
    record = Record(captions=(f"sample number {number}, of which there is nothing to be said",), attributes={})
    return Sample(split=Split.TRAIN, stream=stream, key=path.stem, media=MediaPlace(path=path), record=record, look=look)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.tar"))


def _rate(megabytes: float, seconds: list[float]) -> float:
    """MB a second in the median round."""
    return round(megabytes / float(np.median(seconds)), 1)


if __name__ == "__main__":
    main()
