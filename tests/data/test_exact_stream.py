"""Three epochs of text, pictures and clips: the same samples and the same pixels on any layout, over kills, whatever the files are like.

A twentieth of the samples are bad, each in a way of its own, and are replaced. Others are odd, and are decoded right.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import Batch, PairBatch
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.mixture import StepPlan
from megatron_mplug2.data.sampler import Sampler
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.substitution import Fault
from tests.data.corpus import VOCAB, Sample, clip, document, make_config, pair, picture, write_stream
from tests.data.media import Pixels
from tests.data.odd_media import OddMedia, bad_clips, bad_pictures, odd_clips, odd_pictures
from tests.data.processes import alive, children_of
from tests.data.test_decode import pixels_of

TEXTS, IMAGES, VIDEOS = 32, 80, 68
SIZES = {Task.TEXT: TEXTS, Task.IMAGE_TEXT: IMAGES, Task.VIDEO_TEXT: VIDEOS}
BATCH, FRAMES, SIDE = 8, 3, 24
SCHEDULE = [{"steps": 72, "text": 13, "image_text": 31, "video_text": 28, "frames": FRAMES, "resolution": SIDE}]
PATIENCE_S = 120
STOP, KILL = 30, 36
"""Steps after which the data state is saved, and after which the processes are killed."""

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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of 160 pictures, clips and texts are bad, and a ninth text says nothing."""
    folder = tmp_path_factory.mktemp("corpus")
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
    return folder


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
    ranks = [_steps(config.run_dir / f"rank-{rank}.jsonl") for rank in range(config.layout.data)]
    whole = set.intersection(*(set(steps) for steps in ranks))
    return {
        step: [one for micros in zip(*(steps[step] for steps in ranks), strict=True) for micro in micros for one in micro] for step in whole
    }


def _steps(path: Path) -> dict[int, list[Digests]]:
    text = path.read_text() if path.exists() else ""
    return dict(json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))


def read_to_the_end(config: RunConfig, state: DataState | None = None) -> dict[int, Digests]:
    processes = started(config, state)
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    return global_batches(config)


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Digests]:
    """One process, no workers, a thread that reads ahead."""
    return read_to_the_end(config_of(corpus, tmp_path_factory.mktemp("reference"), 1, 0))


def test_the_stream_holds_three_epochs_of_everything(corpus: Path, tmp_path: Path, reference: dict[int, Digests]) -> None:
    config = config_of(corpus, tmp_path, 1, 0)
    plan = StepPlan(config.schedule, seed=config.training.seed, global_batch=BATCH)
    assert sorted(reference) == list(range(len(plan)))
    for task, size in SIZES.items():
        assert plan.consumed(task, len(plan)) >= 3 * size
        seen = {int(one.split()[0]) for step, digests in reference.items() if plan[step].task is task for one in digests}
        bad = {place for place, key in enumerate(keys(corpus, task)) if key.startswith("bad-")}
        assert seen == set(range(size)) - bad


def keys(corpus: Path, task: Task) -> list[str]:
    return [row["key"].decode() for row in np.load(corpus / task.value / "index.npy")]


@pytest.mark.parametrize(("data_size", "workers"), [(2, 4), (4, 2)])
def test_layouts_and_workers_change_nothing(
    corpus: Path, tmp_path: Path, reference: dict[int, Digests], data_size: int, workers: int
) -> None:
    assert read_to_the_end(config_of(corpus, tmp_path, data_size, workers)) == reference


@pytest.mark.long
@pytest.mark.parametrize(("data_size", "workers"), [(1, 2), (1, 4), (2, 0), (2, 2), (4, 0), (4, 4)])
def test_more_layouts_and_workers_change_nothing(
    corpus: Path, tmp_path: Path, reference: dict[int, Digests], data_size: int, workers: int
) -> None:
    assert read_to_the_end(config_of(corpus, tmp_path, data_size, workers)) == reference


@pytest.mark.parametrize(("before", "after", "workers"), [(2, 4, 2), (2, 1, 0)])
def test_a_kill_and_a_resume_at_another_size(
    corpus: Path, tmp_path: Path, reference: dict[int, Digests], before: int, after: int, workers: int
) -> None:
    killed_halfway(corpus, tmp_path, reference, before, after, workers)


@pytest.mark.long
@pytest.mark.parametrize(("before", "after", "workers"), [(1, 2, 2), (4, 1, 2), (2, 1, 0)])
def test_more_kills_and_resumes(corpus: Path, tmp_path: Path, reference: dict[int, Digests], before: int, after: int, workers: int) -> None:
    killed_halfway(corpus, tmp_path, reference, before, after, workers)


def killed_halfway(corpus: Path, tmp_path: Path, reference: dict[int, Digests], before: int, after: int, workers: int) -> None:
    """Each process is killed alone, with `workers` processes that read ahead, or a thread; they go with it."""
    config = config_of(corpus, tmp_path / "run", before, workers)
    processes = started(config, stop_after=KILL)
    wait_for(lambda: all(KILL in _steps(config.run_dir / f"rank-{rank}.jsonl") for rank in range(before)))
    forked = [worker for process in processes for worker in children_of(process.pid)]
    assert len(forked) == workers * before
    for process in processes:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE_S)
    wait_for(lambda: not any(alive(worker) for worker in forked))
    begun = global_batches(config)
    assert begun == {step: reference[step] for step in range(KILL + 1)}
    state = DataState.model_validate_json((config.run_dir / "state.json").read_text())
    moved = config_of(corpus, tmp_path / "moved", after, workers)
    moved.run_dir.mkdir()
    (config.run_dir / LEDGER).rename(moved.run_dir / LEDGER)
    rest = read_to_the_end(moved, state)
    assert rest == {step: reference[step] for step in range(STOP + 1, len(reference))}


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_bad_samples_are_replaced_and_odd_ones_are_decoded_right(corpus: Path, tmp_path: Path) -> None:
    """All pixels of odd samples against their known content, in each of three epochs."""
    config = config_of(corpus, tmp_path, 1, 0)
    odd = {(Task.IMAGE_TEXT, f"odd-{name}"): media for name, media in odd_pictures().items()}
    odd |= {(Task.VIDEO_TEXT, f"odd-{name}"): media for name, media in odd_clips().items()}
    by_task = {task: keys(corpus, task) for task in SIZES}
    checked: dict[tuple[Task, str], int] = dict.fromkeys(odd, 0)
    for planned, batches in loader_of(config, 0):
        epochs = Sampler(seed=config.training.seed, task=planned.task, size=SIZES[planned.task]).at(
            planned.stream_position + np.arange(BATCH)
        )
        drawn = dict(zip(epochs.indices.tolist(), epochs.epochs.tolist(), strict=True))
        for batch in batches:
            if not isinstance(batch, PairBatch):
                continue
            assert batch.media is not None
            for media, index in zip(batch.media, batch.sample_ids.tolist(), strict=True):
                place = (planned.task, by_task[planned.task][index])
                assert not place[1].startswith("bad-")
                if place in odd and index in drawn:
                    draws = SampleDraws(seed=config.training.seed, task=planned.task, epoch=drawn[index], index=index)
                    assert_shown(pixels_of(media), odd[place], draws)
                    checked[place] += 1
    assert min(checked.values()) >= 3
    events = Ledger(config.run_dir).events
    wanted = {key: 3 for task in SIZES for key in by_task[task] if key.startswith("bad-")}
    found = {key: sum(one.key == key for one in events) for key in {one.key for one in events}}
    assert found.keys() == wanted.keys() and all(found[key] >= wanted[key] for key in wanted)
    assert all(one.fault is Fault.CONTENT and one.reason for one in events)


def assert_shown(pixels: Pixels, odd: OddMedia, draws: SampleDraws) -> None:
    """A mean error of at most 3 of 255: what the codecs lose."""
    taken = [0]
    if draws.task is Task.VIDEO_TEXT:
        taken = frame_indices(len(odd.shown), FRAMES, draws.uniforms(FRAMES, Purpose.FRAMES).tolist())
    assert len(pixels) == len(taken)
    for found, number in zip(pixels, taken, strict=True):
        wanted = np.asarray(Image.fromarray(odd.shown[number]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        assert np.abs(found.astype(int) - wanted).mean() <= 3, number


def interrupt(tar: Path) -> ForkProcess:
    """Puts a pipe in a tar's place. When it is opened, another process puts the tar back: what is read from a pipe at an offset is an
    I/O error (ESPIPE), and the next try finds the tar."""
    away = tar.with_suffix(".away")
    tar.rename(away)
    os.mkfifo(tar)
    process = multiprocessing.get_context("fork").Process(target=_restore, args=(tar, away), daemon=True)
    process.start()
    return process


def _restore(tar: Path, away: Path) -> None:
    writer = os.open(tar, os.O_WRONLY)  # waits for a reader
    away.replace(tar)
    os.close(writer)


def test_a_passing_io_error_leaves_no_trace(corpus: Path, tmp_path: Path, reference: dict[int, Digests]) -> None:
    config = config_of(corpus, tmp_path, 1, 2)
    loader = loader_of(config, 0)
    restoring = [interrupt(corpus / "image_text/00001.tar"), interrupt(corpus / "video_text/00000.tar")]
    found = {planned.step: [one for batch in batches for one in digests_of(batch)] for planned, batches in loader}
    for process in restoring:
        process.join(PATIENCE_S)
        assert process.exitcode == 0  # each was read
    assert found == reference
    assert all(one.fault is Fault.CONTENT for one in Ledger(config.run_dir).events)
