"""The real model, saved at one layout and trained on at another, comes to what one undisturbed process does over three more steps.

Of all tasks, over 1 and 2 tensor, pipeline and data-parallel ranks, with ZeRO-1 and without. Tolerances as in `test_equivalence`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.step import train_step
from tests.checkpoint.runs import MATRIX
from tests.ranks import run_ranks
from tests.training import cases
from tests.training.compare import LOSS, NORM, WEIGHT
from tests.training.record import Record, StepRecord, merge

TASKS = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT, Task.IMAGE_TEXT)
FIRST = 2
"""Steps before the checkpoint."""
NAMES = list(MATRIX)
SHORT = [("tp1 pp1 dp1", 15), ("tp2 pp1 dp1 zero1", 6)]
"""A layout that goes on, and the number of that which has saved."""

Source = Callable[[str], Path]


def config_at(layout: str, run_dir: Path = Path("runs/case")) -> RunConfig:
    chosen = MATRIX[layout]
    return cases.config(chosen, microbatch=cases.GLOBAL_BATCH // (2 * chosen.data)).model_copy(update={"run_dir": run_dir})


def train(engine: Engine, first: int, tasks: Sequence[Task]) -> list[StepRecord]:
    topology, records, guard = engine.topology, [], Guard(engine.config, {})
    for step, task in enumerate(tasks, first):
        result = train_step(engine, cases.work(engine.config, step, task, topology.data_rank, topology.data_size), guard)
        losses = {objective.value: loss for objective, loss in result.values.losses.items()}
        records.append(StepRecord(losses=losses, grad_norm=result.grad_norm, gradients={}, weights={}, negatives=None))
    records[-1].weights = {
        weight.name if weight.saves else f"{weight.name} (copy)": weight.param.detach().clone() for weight in engine.weights
    }
    return records


def recorded(engine: Engine, steps: list[StepRecord]) -> Record:
    topology = engine.topology
    return Record(
        steps=steps,
        coordinates=(topology.tensor_rank, topology.data_rank, topology.pipeline_rank),
        splits={weight.name: weight.partition_dim for weight in engine.weights},
        sizes={weight.name: weight.full_size for weight in engine.weights},
    )


def undisturbed(config: RunConfig) -> Record:
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    return recorded(engine, train(engine, 0, TASKS)[FIRST:])


def save(config: RunConfig) -> None:
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    train(engine, 0, TASKS[:FIRST])
    with checkpoints.Saver(engine, lambda _: None) as saver:
        saver.save(DataState(steps=FIRST, datasets={}, vocabulary="v"), HealthState())


def go_on_from_each(config: RunConfig, run_dirs: list[Path]) -> list[Record]:
    """One after the other in one engine, each over what the one before has left."""
    engine = make_engine(config)
    records = []
    for run_dir in run_dirs:
        start = checkpoints.start(replace(engine, config=config.model_copy(update={"run_dir": run_dir})))
        assert start.state is not None and start.state.steps == FIRST
        records.append(recorded(engine, train(engine, FIRST, TASKS[FIRST:])))
    return records


@cache
def expected() -> Record:
    return run_ranks(1, undisturbed, cases.config(MATRIX["tp1 pp1 dp1"]))[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Saves at a layout, once."""

    @cache
    def made(layout: str) -> Path:
        run_dir = tmp_path_factory.mktemp("run")
        run_ranks(MATRIX[layout].world_size, save, config_at(layout, run_dir))
        return run_dir

    return made


def check(loaded: str, run_dirs: list[Path]) -> None:
    wanted = expected()
    by_rank: list[list[Record]] = run_ranks(MATRIX[loaded].world_size, go_on_from_each, config_at(loaded), run_dirs)
    for ranks in zip(*by_rank, strict=True):
        for step, plain in enumerate(wanted.steps):
            for rank in ranks:
                assert rank.steps[step].losses == pytest.approx(plain.losses, abs=LOSS)
                assert rank.steps[step].grad_norm == pytest.approx(plain.grad_norm, rel=NORM)
        weights = merge(ranks, -1, "weights")
        assert weights.keys() == wanted.steps[-1].weights.keys()
        for name, value in wanted.steps[-1].weights.items():
            torch.testing.assert_close(weights[name], value[tuple(map(slice, wanted.sizes[name]))], rtol=0, atol=WEIGHT, msg=name)


@pytest.mark.parametrize(("loaded", "saved"), SHORT)
def test_another_layout(source: Source, loaded: str, saved: int) -> None:
    check(loaded, [source(NAMES[saved])])


@pytest.mark.long
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_each_layout_from_all_others(source: Source, number: int) -> None:
    check(NAMES[number], [source(NAMES[number ^ difference]) for difference in range(1, len(NAMES))])
