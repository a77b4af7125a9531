"""Stages that are killed at random points give the same bytes as undisturbed ones; so do parts and any number of processes."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from data_tools.stages.choices import Duplicates
from data_tools.stages.encode import Recipe
from data_tools.stages.filter import FilterStage
from data_tools.stages.index import index
from data_tools.stages.listing_stage import ListingStage
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.stages.rules import Rules
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.transcode import Transcode
from tests.data_tools.stages.corpora import forked, listing_corpus, mixed_corpus, probe_stage, probed, status_of, tree

Work = Callable[[Path, Effort], object]
"""Runs a stage into a folder."""
Made = Callable[[Path], Work]
"""What runs a stage over a listing that has been probed."""


def probe(listing: Path) -> Work:
    return partial(run_stage, probe_stage(listing))


def transcode(listing: Path) -> Work:
    look = Transcode(Recipe(short_side=40))
    return partial(run_stage, ListingStage(name="transcode", corpus=listing_corpus(listing), settings={}, look=look, chunk=3))


def filter_(listing: Path) -> Work:
    return partial(run_stage, FilterStage(listing=listing, rules=Rules(), duplicates=Duplicates.LOOK, look_distance=3, tests=()))


def shard_(listing: Path) -> Work:
    return lambda out, effort: shard(listing_corpus(listing), out, Packing(shard_samples=2), effort)


def index_(listing: Path) -> Work:
    """Of the clips."""
    shards = listing.parent / "shards"
    shard_(listing)(shards, Effort())

    def work(out: Path, effort: Effort) -> int:
        out.mkdir(exist_ok=True)
        for tar in (shards / "train/video_text").glob("*.tar"):
            with suppress(FileExistsError):
                os.link(tar, out / tar.name)
        return index(out, effort)

    return work


STAGES = [pytest.param(made, id=made.__name__.rstrip("_")) for made in (probe, transcode, filter_, shard_, index_)]


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    return probed(mixed_corpus(folder / "corpus"), folder / "probed")


def undisturbed(work: Work, out: Path) -> tuple[dict[str, bytes], float]:
    """The tree, and the seconds that it took."""
    start = time.monotonic()
    assert status_of(forked(partial(work, out, Effort()))) == 0
    return tree(out), time.monotonic() - start


def killed_until_done(work: Work, out: Path, delays: random.Random, seconds: float, most: int) -> int:
    """Kills the stage's processes up to `most` times, each time after a random part of the time that a whole run takes; returns how often
    one was killed at work."""
    kills = 0
    while kills < most:
        pid = forked(partial(work, out, Effort(workers=2)))
        time.sleep(delays.uniform(0.0, seconds))
        os.killpg(pid, signal.SIGKILL)
        if (status := status_of(pid)) == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert status_of(forked(partial(work, out, Effort(workers=2)))) == 0
    return kills


def check_kills(work: Work, folder: Path, kills: int) -> None:
    whole, seconds = undisturbed(work, folder / "undisturbed")
    delays = random.Random(kills)
    done = rounds = 0
    while done < kills:
        rounds += 1
        assert rounds < 20 * kills, "runs end before they are killed"
        done += killed_until_done(work, folder / f"round{rounds}", delays, seconds, kills - done)
        assert tree(folder / f"round{rounds}") == whole


@pytest.mark.parametrize("made", STAGES)
def test_killed_at_random_points(made: Made, listing: Path, tmp_path: Path) -> None:
    check_kills(made(listing), tmp_path, 3)


@pytest.mark.long
@pytest.mark.parametrize("made", STAGES)
def test_killed_at_many_random_points(made: Made, listing: Path, tmp_path: Path) -> None:
    check_kills(made(listing), tmp_path, 25)


@pytest.mark.parametrize("made", STAGES)
def test_parts_at_the_same_time(made: Made, listing: Path, tmp_path: Path) -> None:
    """One of them is killed first; two processes or one, a part or the whole, give the same bytes."""
    work = made(listing)
    whole, seconds = undisturbed(work, tmp_path / "undisturbed")
    works = [partial(work, tmp_path / "parts", Effort(part=Part(index=number, count=3), workers=2)) for number in (1, 2, 3)]
    pids = [forked(each) for each in works]
    time.sleep(seconds / 4)
    os.killpg(pids[0], signal.SIGKILL)
    assert status_of(pids[0]) in (0, -signal.SIGKILL)
    assert [status_of(pid) for pid in pids[1:]] == [0, 0]
    assert status_of(forked(works[0])) == 0
    assert tree(tmp_path / "parts") == whole
