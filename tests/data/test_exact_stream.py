"""Three epochs of text, pictures and clips: the same samples and the same pixels on any layout, over kills, whatever the files are like.

A twentieth of the samples are bad, each in a way of its own, and are replaced. Others are odd, and are decoded right.
"""

import multiprocessing
import os
import signal
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.frame_sampling import frame_indices
from megatron_mplug2.data.ledger import LEDGER, Ledger
from megatron_mplug2.data.mixture import StepPlan
from megatron_mplug2.data.sampler import Sampler
from megatron_mplug2.data.state import DataState
from megatron_mplug2.data.substitution import Fault
from tests.data.media import Pixels
from tests.data.odd_media import OddMedia, odd_clips, odd_pictures
from tests.data.processes import alive, children_of
from tests.data.rank_streams import (
    BATCH,
    FRAMES,
    PATIENCE_S,
    SIDE,
    SIZES,
    STOP,
    Digests,
    config_of,
    digests_of,
    global_batches,
    loader_of,
    read_to_the_end,
    started,
    steps_of,
    write_streams,
)
from tests.data.test_decode import pixels_of

KILL = 36
"""The step after which the processes are killed."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_streams(folder)
    return folder


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
    wait_for(lambda: all(KILL in steps_of(config.run_dir / f"rank-{rank}.jsonl") for rank in range(before)))
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
