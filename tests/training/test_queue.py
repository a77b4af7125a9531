"""VLC with momentum encoders and a queue, at every layout and over a resume, against one process, whole matrices and autograd.

Beside what every training test compares: the averaged weights, and the queue slot by slot, after each step.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.objectives import Negatives, QueueConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.health_state import HealthState
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import WEIGHT, compare_step
from tests.training.record import Record, StepRecord

FEATURE = 2e-6
"""Absolute, of features of length 1."""

TASKS = (Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT)
SAVED = 3
"""Steps before the checkpoint."""
# The queue is empty at first, grows, is full at the fourth step, and loses its oldest batch there, whose place the fifth step sees.
QUEUE = cases.VLC.model_copy(
    update={
        "negatives": Negatives.QUEUE,
        "queue": QueueConfig(size=2 * cases.GLOBAL_BATCH, momentum=0.8, alpha=0.4, alpha_ramp_steps=3),
    }
)
# The chain of the case is described in test_equivalence.py.
LAYOUTS = {
    "one": LayoutConfig(),
    "tp2": LayoutConfig(tensor=2),
    "tp2-sp": LayoutConfig(tensor=2, sequence_parallel=True),
    "dp2": LayoutConfig(data=2, zero1=False),
    "dp2-zero1": LayoutConfig(data=2),
    "dp2-zero1-overlap": LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
    "pp2-in-vision": LayoutConfig(pipeline=2, stage_starts=(2,)),
    "pp2-in-fusion": LayoutConfig(pipeline=2, stage_starts=(12,)),
    "pp4-both-ties": LayoutConfig(pipeline=4, stage_starts=(6, 9, 15), zero1=False),
    "tp2-pp2-dp2": LayoutConfig(tensor=2, pipeline=2, data=2, stage_starts=(9,), overlap_grad_reduce=True, overlap_param_gather=True),
}
SHORT = [("tp2", 1), ("dp2-zero1-overlap", 2), ("pp2-in-vision", 2), ("pp2-in-fusion", 1)]
RESUMES = [("dp2-zero1-overlap", 2, "tp2", 1), ("pp2-in-vision", 2, "dp2", 1), ("tp2", 1, "pp4-both-ties", 4), ("one", 1, "tp2-pp2-dp2", 2)]


@cache
def expected() -> Record:
    return run_ranks(1, reference.run, cases.config(LayoutConfig(), vlc=QUEUE), TASKS)[0]


@cache
def undisturbed(layout: str, microbatches: int) -> list[Record]:
    config = config_at(layout, microbatches)
    return run_ranks(config.layout.world_size, record.run, config, TASKS)


def config_at(layout: str, microbatches: int, run_dir: Path = Path("runs/case")) -> RunConfig:
    found = LAYOUTS[layout]
    config = cases.config(found, microbatch=cases.GLOBAL_BATCH // (microbatches * found.data), vlc=QUEUE)
    return config.model_copy(update={"run_dir": run_dir})


def compare(plain: StepRecord, ranks: Sequence[Record], step: int) -> None:
    compare_step(plain, ranks, step)
    averages = record.merge(ranks, step, "averages")
    needed = ("vision.", "text.", "universal.", "heads.contrast.")
    assert averages.keys() == {name for name in plain.averages if name.startswith(needed) and name != LOG_TEMPERATURE}
    for name, average in averages.items():
        difference = float((average - plain.averages[name]).abs().max())
        assert difference <= WEIGHT, f"average of {name} after step {step}: {difference:.1e}"
    queues = [rank.steps[step].queue for rank in ranks if rank.steps[step].queue]
    assert len(queues) == len({rank.coordinates[:2] for rank in ranks}), "one stage has the queue, on all of its ranks"
    for queue in queues:
        assert torch.equal(queue["ids"], plain.queue["ids"]) and torch.equal(queue["enqueued"], plain.queue["enqueued"])
        for side in ("vision", "text"):
            torch.testing.assert_close(queue[side], plain.queue[side], rtol=0, atol=FEATURE)


def compare_run(layout: str, microbatches: int) -> None:
    ranks = undisturbed(layout, microbatches)
    for step, plain in enumerate(expected().steps):
        compare(plain, ranks, step)


def test_the_case_fills_the_queue_and_moves_the_averages() -> None:
    steps = expected().steps
    assert [int(step.queue["enqueued"]) for step in steps] == [16, 32, 32, 48, 64]
    assert len(steps[-1].queue["ids"]) == 32
    lags = [float((steps[-1].averages[name] - weight).abs().max()) for name, weight in steps[-1].weights.items()]
    assert sum(lag > 1e-3 for lag in lags) > len(lags) / 2


@pytest.mark.parametrize(("layout", "microbatches"), SHORT)
def test_five_steps_equal_one_process(layout: str, microbatches: int) -> None:
    compare_run(layout, microbatches)


@pytest.mark.long
@pytest.mark.parametrize(("layout", "microbatches"), [case for case in product(LAYOUTS, (1, 2)) if case not in SHORT])
def test_five_steps_equal_one_process_everywhere(layout: str, microbatches: int) -> None:
    compare_run(layout, microbatches)


def train_and_save(config: RunConfig) -> None:
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    record.train(engine, TASKS[:SAVED])
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=SAVED, datasets={}, vocabulary=""), HealthState())
        record.train(engine, TASKS[SAVED:], SAVED)  # beside the save, which must not see it


def resume(config: RunConfig) -> Record:
    engine = make_engine(config)
    state = checkpoints.start(engine).state
    assert state is not None and state.steps == SAVED
    return record.train(engine, TASKS[SAVED:], SAVED)


def resumed(folder: Path, saved: tuple[str, int], then: tuple[str, int]) -> list[Record]:
    """The last steps at a layout, from a checkpoint that another wrote."""
    first, second = (config_at(*place, run_dir=folder) for place in (saved, then))
    run_ranks(first.layout.world_size, train_and_save, first)
    ranks: list[Record] = run_ranks(second.layout.world_size, resume, second)
    return ranks


def test_a_resume_at_the_same_layout_goes_on_bit_for_bit(tmp_path: Path) -> None:
    place = ("dp2-zero1-overlap", 2)
    for rank, straight in zip(resumed(tmp_path, place, place), undisturbed(*place), strict=True):
        for step, wanted in zip(rank.steps, straight.steps[SAVED:], strict=True):
            assert (step.losses, step.grad_norm) == (wanted.losses, wanted.grad_norm)
            for kind in ("weights", "averages", "queue"):
                found, tensors = getattr(step, kind), getattr(wanted, kind)
                assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors), kind


def check_resume_elsewhere(folder: Path, saved: str, microbatches: int, then: str, microbatches_then: int) -> None:
    ranks = resumed(folder, (saved, microbatches), (then, microbatches_then))
    for step, plain in enumerate(expected().steps[SAVED:]):
        compare(plain, ranks, step)


def test_a_resume_at_another_layout_goes_on(tmp_path: Path) -> None:
    check_resume_elsewhere(tmp_path, *RESUMES[0])


@pytest.mark.long
@pytest.mark.parametrize("places", RESUMES[1:], ids=lambda places: f"{places[0]}->{places[2]}")
def test_a_resume_at_other_layouts_goes_on(tmp_path: Path, places: tuple[str, int, str, int]) -> None:
    check_resume_elsewhere(tmp_path, *places)


def roll_back(config: RunConfig) -> tuple[Record, Record]:
    """The steps after the checkpoint, twice."""
    engine = record.begin(config)
    record.train(engine, TASKS[:SAVED])
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=SAVED, datasets={}, vocabulary=""), HealthState())
        first = record.train(engine, TASKS[SAVED:], SAVED)
        saver.roll_back()
    return first, record.train(engine, TASKS[SAVED:], SAVED)


def test_a_roll_back_takes_averages_and_queue_with_it(tmp_path: Path) -> None:
    for first, again in run_ranks(1, roll_back, config_at("one", 1, run_dir=tmp_path)):
        for step, wanted in zip(again.steps, first.steps, strict=True):
            assert step.losses == wanted.losses
            for kind in ("weights", "averages", "queue"):
                found, tensors = getattr(step, kind), getattr(wanted, kind)
                assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors), kind
