"""Workers that hang or crash: the sample is named, the worker replaced, and the results are those of a run without."""

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import evaluation_batches
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault
from megatron_mplug2.data.watch import LostDecoder, SampleInWork, Watch
from megatron_mplug2.data.workers import Workers
from megatron_mplug2.errors import UserError
from tests.data.corpus import make_config, pair, picture, write_corpus, write_stream
from tests.data.processes import children

LIMIT_S = 1.0
"""Far beyond what a sample takes here, also on a busy machine."""
ITEMS = range(8)
CULPRIT = 3


def sample_of(item: int) -> SampleInWork:
    return SampleInWork(task=Task.IMAGE_TEXT, dataset="pictures", key=f"picture-{item}", index=item, position=item)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    while True:
        pass


class Computation:
    """Squares, except that the culprit ends its worker the first `times` times."""

    def __init__(self, folder: Path, end: Any, times: int) -> None:
        self._folder, self._end, self._times = folder, end, times

    def __call__(self, item: int, watch: Watch) -> tuple[torch.Tensor, str]:
        try:
            with watch.working_on(sample_of(item)):
                if item == CULPRIT:
                    self._fail()
                return torch.full((3,), item * item), ""
        except LostDecoder as lost:
            return torch.zeros(3), str(lost)

    def _fail(self) -> None:
        tries = len(list(self._folder.iterdir()))
        if tries < self._times:
            (self._folder / str(tries)).touch()
            self._end()


def results(computation: Computation, count: int) -> list[tuple[list[int], str]]:
    workers = Workers(computation, ITEMS, count=count, ahead=4, timeout_s=LIMIT_S)
    return [(tensor.tolist(), reason) for tensor, reason in workers]


EXPECTED = [([item * item] * 3, "") for item in ITEMS]


@pytest.mark.parametrize(("end", "reason"), [(crash, "the decoder crashed (signal 11)"), (hang, "the decoder hung for 1 s")])
def test_a_lost_worker_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, end: Any, reason: str) -> None:
    before = children()
    assert results(Computation(tmp_path, end, times=1), count=2) == EXPECTED
    sample = "sample picture-3 of image_text (dataset pictures, index 3, position 3)"
    assert caplog.messages == [f"{sample}: {reason}; trying again"]
    assert children() == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_sample_that_crashes_again_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int) -> None:
    found = results(Computation(tmp_path, crash, times=99), count=count)
    assert found == [*EXPECTED[:CULPRIT], ([0, 0, 0], "the decoder crashed (signal 11)"), *EXPECTED[CULPRIT + 1 :]]
    assert len(list(tmp_path.iterdir())) == 2 and caplog.messages[-1].endswith("; giving it up")


def die(item: int, watch: Watch) -> int:
    if item == CULPRIT:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_workers_that_die_outside_of_any_sample_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    before = children()
    workers = Workers(die, ITEMS, count=2, ahead=4, timeout_s=LIMIT_S)
    assert [next(workers) for _ in range(CULPRIT)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"crashed \(signal 9, out of memory\?\) 2 times outside of any sample: .*data.workers") as error:
        next(workers)
    assert "\n" not in str(error.value) and children() == before


def defect(item: int, watch: Watch) -> int:
    raise KeyError("nothing")


def test_a_defect_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"in defect\n(?s:.*)KeyError: 'nothing'"):
        next(Workers(defect, ITEMS, count=1, ahead=4, timeout_s=LIMIT_S))


def same(item: int, watch: Watch) -> int:
    return item


def test_a_caller_that_is_busy_for_longer_than_the_limit_loses_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for item in Workers(same, ITEMS, count=1, ahead=4, timeout_s=LIMIT_S):
        found.append(item)
        if item == CULPRIT:
            time.sleep(1.2 * LIMIT_S)
    assert found == list(ITEMS) and not caplog.messages


@contextmanager
def silent_tar(tar: Path) -> Iterator[None]:
    """In a tar's place a pipe that nobody writes to: opening it never returns, as on a storage that has stopped to answer."""
    away = tar.with_suffix(".away")
    tar.rename(away)
    os.mkfifo(tar)
    try:
        yield
    finally:
        away.replace(tar)


class Restoring(logging.Handler):
    """Puts the tar back as soon as a hang is told."""

    def __init__(self, tar: Path) -> None:
        super().__init__()
        self._tar = tar

    def emit(self, record: logging.LogRecord) -> None:
        if self._tar.is_fifo():
            os.link(self._tar.with_suffix(".away"), self._tar.with_suffix(".back"))
            self._tar.with_suffix(".back").replace(self._tar)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """31 pictures in two tars; the second holds number 30 alone."""
    write_corpus(tmp_path / "corpus", texts=1, images=1, videos=1)
    write_stream(tmp_path / "corpus/pictures", MediaKind.IMAGE, [pair(number, picture(number)) for number in range(31)], per_tar=30)
    return tmp_path / "corpus"


def config_of(corpus: Path, run_dir: Path) -> RunConfig:
    folders = {"image_text": [str(corpus / "pictures")]}
    schedule = [{"steps": 4, "image_text": 1.0, "resolution": 16}]
    return make_config(
        corpus, run_dir, data__train=folders, data__test=folders, data__workers=2, data__sample_timeout_s=LIMIT_S, schedule=schedule
    )


def loader_of(config: RunConfig) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True, ledger=Ledger(config.run_dir))


def ids_of(loader: Loader) -> list[int]:
    return [index for _, batches in loader for batch in batches for index in batch.sample_ids.tolist()]


def test_a_sample_that_hangs_once_leaves_no_trace(corpus: Path, tmp_path: Path) -> None:
    expected = ids_of(loader_of(config_of(corpus, tmp_path / "straight")))
    config = config_of(corpus, tmp_path / "run")
    loader, restoring = loader_of(config), Restoring(corpus / "pictures/00001.tar")
    logging.getLogger("megatron_mplug2").addHandler(restoring)
    with silent_tar(corpus / "pictures/00001.tar"):
        assert ids_of(loader) == expected
    logging.getLogger("megatron_mplug2").removeHandler(restoring)
    assert 30 in expected and Ledger(config.run_dir).events == ()


def test_a_sample_that_hangs_again_is_substituted_and_a_resume_repeats_that(corpus: Path, tmp_path: Path) -> None:
    straight = ids_of(loader_of(config_of(corpus, tmp_path / "straight")))
    config = config_of(corpus, tmp_path / "run")
    loader = loader_of(config)
    with silent_tar(corpus / "pictures/00001.tar"):
        found = ids_of(loader)
    events = Ledger(config.run_dir).events
    assert [(one.dataset, one.shard, one.key, one.fault, one.reason) for one in events] == [
        ("pictures", "00001.tar", "pair-0030", Fault.STORAGE, "the decoder hung for 1 s")
    ]
    changed = [position for position, pairs in enumerate(zip(found, straight, strict=True)) if len(set(pairs)) > 1]
    assert changed == [events[0].position] and loader.state_after(3).substitutions == events
    assert ids_of(loader_of(config)) == found


def test_an_evaluation_leaves_out_a_sample_that_hangs(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, tmp_path)
    config = config.model_copy(update={"data": config.data.model_copy(update={"prefetch": 1})})  # the fourth batch is not read yet
    batches = evaluation_batches(config, Split.TEST, Task.IMAGE_TEXT, data_rank=0, data_size=1, batch=8)
    first = next(batches)
    with silent_tar(corpus / "pictures/00001.tar"):
        rest = list(batches)
    assert first.left_out == () and [one.index for batch in rest for one in batch.left_out] == [30]
    assert rest[-1].left_out[0].reason == "the decoder hung for 1 s"
