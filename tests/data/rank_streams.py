"""Streams of text, pictures and clips with bad and odd samples among them, and processes that read them as data-parallel ranks do."""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from tests.data.corpus import VOCAB, Sample, clip, document, make_config, pair, picture, write_stream
from tests.data.odd_media import bad_clips, bad_pictures, odd_clips, odd_pictures

TEXTS, IMAGES, VIDEOS = 32, 80, 68
SIZES = {Task.TEXT: TEXTS, Task.IMAGE_TEXT: IMAGES, Task.VIDEO_TEXT: VIDEOS}
BATCH, FRAMES, SIDE = 8, 3, 24
SCHEDULE = [{"steps": 72, "text": 13, "image_text": 31, "video_text": 28, "frames": FRAMES, "resolution": SIDE}]
PATIENCE_S = 120
STOP = 30
"""The step after which the data state is saved."""

Digests = list[str]
"""Of a step's samples, in the order of the global batch: index in the manifest and SHA-256 of all tensors."""


def named(key: str, media: bytes, number: int, captions: int = 2) -> Sample:
    return Sample(key=key, media=media, record=pair(number, media, captions).record)


def filled_up(special: Sequence[Sample], size: int, make: Any) -> list[Sample]:
    """Plain samples among which the special ones lie at even distances."""
    samples = [pair(number, make(number)) for number in range(size)]
    for place, sample in enumerate(special):
        samples[place * size // len(special)] = sample
    return samples


def write_streams(folder: Path) -> None:
    """Eight of 160 pictures, clips and texts are bad, and a ninth text says nothing."""
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    texts = [document(number, 4 + number) for number in range(TEXTS)]
    write_stream(folder / "text", MediaKind.TEXT, texts, per_tar=20)
    pictures = [
        *(named(f"odd-{name}", odd.data, 500 + place) for place, (name, odd) in enumerate(odd_pictures().items())),
        *(named(f"bad-{name}", data, 600 + place) for place, (name, data) in enumerate(bad_pictures().items())),
        named("bad-caption", picture(700), 700, captions=0),
    ]
    write_stream(folder / "image_text", MediaKind.IMAGE, filled_up(pictures, IMAGES, picture), per_tar=30)
    clips = [
        *(named(f"odd-{name}", odd.data, 500 + place) for place, (name, odd) in enumerate(odd_clips().items())),
        *(named(f"bad-{name}", data, 600 + place) for place, (name, data) in enumerate(bad_clips().items())),
    ]
    write_stream(folder / "video_text", MediaKind.VIDEO, filled_up(clips, VIDEOS, clip), per_tar=30)


def config_of(corpus: Path, run_dir: Path, data_size: int, workers: int) -> RunConfig:
    return make_config(
        corpus,
        run_dir,
        schedule=SCHEDULE,
        data__crop_scale=[1.0, 1.0],  # so that the pixels are known
        data__bad_sample_limit=0.2,
        data__workers=workers,
        data__prefetch=4,
        training__global_batch=BATCH,
        training__microbatch=BATCH // data_size // (2 if data_size < 4 else 1),
        layout__data=data_size,
    )


def loader_of(config: RunConfig, rank: int, state: DataState | None = None) -> Loader:
    ledger = Ledger(config.run_dir) if rank == 0 else None
    start = state.steps if state else 0
    return Loader(
        config, Split.TRAIN, data_rank=rank, data_size=config.layout.data, needs_media=True, start_step=start, state=state, ledger=ledger
    )


def digests_of(batch: Batch) -> Digests:
    count = len(batch.sample_ids)
    tensors = [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)]
    rows = [tensor.reshape(count, -1).numpy() for tensor in tensors]
    return [
        f"{index} {hashlib.sha256(b''.join(row[place].tobytes() for row in rows)).hexdigest()}"
        for place, index in enumerate(batch.sample_ids.tolist())
    ]


def read_on_rank(config: RunConfig, rank: int, state: DataState | None, stop_after: int | None) -> None:
    """Writes a line of each microbatch's digests a step, and the data state after step STOP. After `stop_after` it waits to be killed."""
    loader = loader_of(config, rank, state)
    with (config.run_dir / f"rank-{rank}.jsonl").open("a") as lines:
        for planned, batches in loader:
            lines.write(json.dumps([planned.step, [digests_of(batch) for batch in batches]]) + "\n")
            lines.flush()
            if planned.step == STOP and rank == 0:
                (config.run_dir / "state.json").write_text(loader.state_after(STOP).model_dump_json())
            while planned.step == stop_after:
                time.sleep(1)


def started(config: RunConfig, state: DataState | None = None, stop_after: int | None = None) -> list[ForkProcess]:
    """A process for each data-parallel rank."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=read_on_rank, args=(config, rank, state, stop_after), daemon=True) for rank in range(config.layout.data)
    ]
    for process in processes:
        process.start()
    return processes


def global_batches(config: RunConfig) -> dict[int, Digests]:
    """What the ranks wrote, by step: microbatches are dealt to ranks in turn."""
    ranks = [steps_of(config.run_dir / f"rank-{rank}.jsonl") for rank in range(config.layout.data)]
    whole = set.intersection(*(set(steps) for steps in ranks))
    return {
        step: [one for micros in zip(*(steps[step] for steps in ranks), strict=True) for micro in micros for one in micro] for step in whole
    }


def steps_of(path: Path) -> dict[int, list[Digests]]:
    """What one rank wrote, without a line that it was killed in."""
    text = path.read_text() if path.exists() else ""
    return dict(json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))


def read_to_the_end(config: RunConfig, state: DataState | None = None) -> dict[int, Digests]:
    """By all ranks; from the state on, if there is one."""
    processes = started(config, state)
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    return global_batches(config)
