"""DeepSpeed's engine against Megatron-Core's on one process with one batch: losses, norms by module, weights and optimizer state.

In fp32, where sums in another order differ in the last bits. Every weight is sharded at stage 3, and the tasks take turns: a weight outside
the step's task has a zero gradient in both engines.
"""

import math
import shutil
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.layout import DeepSpeedConfig, LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.training import Precision
from tests.ranks import run_ranks
from tests.training import cases
from tests.training.deepspeed.runs import MIXED, Case, Figures, Tensors, begin, go_on, go_on_without_the_first, saved, told_of_nan

TWENTY = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.VIDEO_TEXT) * 5
LOSS = 1e-5
"""Relative, of losses and norms, after twenty steps too, in which weights move by 1e-2 each."""
WEIGHT = 2e-5
"""Absolute, of weights and moments."""
LAYOUTS = {
    "one": LayoutConfig(),
    "dp2": LayoutConfig(data=2),
    "tp2": LayoutConfig(tensor=2),
    "tp2-dp2": LayoutConfig(tensor=2, data=2),
}
STAGES = {
    f"zero{stage}{'-offload' * offload}": DeepSpeedConfig.model_validate({"zero_stage": stage, "offload_optimizer": offload})
    for stage, offload in product((1, 2, 3), (False, True))
}
SHORT = [("zero2", "dp2", 2), ("zero3", "dp2", 1)]
LONG = [
    *product(("zero1", "zero2", "zero3"), ("dp2",), (4,)),
    *product(("zero1", "zero2", "zero3"), ("tp2", "tp2-dp2"), (2,)),
    *product(("zero1-offload", "zero2-offload", "zero3-offload"), ("dp2",), (2,)),
]

Outcome = tuple[list[list[Figures]], Tensors]


class Runs:
    """Runs of the case in a folder, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.outcome, self._begun = cache(self._outcome), cache(self._begin)

    def start(self, name: str, frozen: tuple[Module, ...] = (), vlc: VLCConfig = cases.VLC) -> Path:
        """A new run's folder, with the checkpoint that all begin with."""
        return Path(shutil.copytree(self._begun(frozen, vlc), self._folder / name))

    def _begin(self, frozen: tuple[Module, ...], vlc: VLCConfig) -> Path:
        run_dir = self._folder / f"begin-{'-'.join(frozen)}-{vlc.temperature}"
        run_ranks(1, begin, Case(frozen=frozen, vlc=vlc).config(run_dir))
        return run_dir

    def _outcome(self, case: Case, tasks: tuple[Task, ...], name: str) -> Outcome:
        run_dir = self.start(name, case.frozen, case.vlc)
        figures = run_ranks(case.layout.world_size, go_on, case.config(run_dir), tasks)
        return figures, saved(run_dir, len(tasks))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def compare(expected: Outcome, found: Outcome) -> None:
    [plain], tensors = expected
    for ranks in found[0]:
        assert len(ranks) == len(plain)
        for one, other in zip(plain, ranks, strict=True):
            for name in ("losses", "gradients", "weights"):
                assert getattr(other, name) == pytest.approx(getattr(one, name), rel=LOSS, abs=1e-7), name
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=LOSS)
    compare_tensors(tensors, found[1])


def compare_tensors(expected: Tensors, found: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = float((found[name] - tensor).abs().max())
        assert difference <= WEIGHT, f"{name}: {difference:.1e}"


def check(runs: Runs, stage: str, layout: str, microbatches: int, tasks: tuple[Task, ...]) -> None:
    case = Case(layout=LAYOUTS[layout], deepspeed=STAGES[stage], microbatches=microbatches)
    expected = runs.outcome(Case(), tasks, f"megatron-{len(tasks)}")
    compare(expected, runs.outcome(case, tasks, f"{stage}-{layout}-{microbatches}-{len(tasks)}"))


@pytest.mark.parametrize(("stage", "layout", "microbatches"), SHORT)
def test_mixed_steps_are_those_of_the_other_engine(runs: Runs, stage: str, layout: str, microbatches: int) -> None:
    check(runs, stage, layout, microbatches, MIXED)


@pytest.mark.long
@pytest.mark.parametrize(("stage", "layout", "microbatches"), LONG)
def test_mixed_steps_are_those_of_the_other_engine_everywhere(runs: Runs, stage: str, layout: str, microbatches: int) -> None:
    check(runs, stage, layout, microbatches, MIXED)


@pytest.mark.long
@pytest.mark.parametrize(("stage", "layout"), [("zero1", "tp2"), ("zero2", "dp2"), ("zero3", "dp2")])
def test_twenty_steps_are_those_of_the_other_engine(runs: Runs, stage: str, layout: str) -> None:
    check(runs, stage, layout, 1, TWENTY)


@pytest.mark.long
def test_recompute_gathers_weights_again(runs: Runs) -> None:
    case = Case(layout=LAYOUTS["dp2"], deepspeed=STAGES["zero3"], recompute=tuple(Block))
    compare(runs.outcome(Case(), MIXED, "megatron-4"), runs.outcome(case, MIXED, "zero3-recompute"))


@pytest.mark.parametrize(
    ("stage", "layout"), [("zero3", "dp2"), *(pytest.param(stage, "dp2", marks=pytest.mark.long) for stage in ("zero1", "zero1-offload"))]
)
def test_the_temperature_is_put_back_between_its_bounds(runs: Runs, stage: str, layout: str) -> None:
    """In the main weights, which are saved, and in those that the next step uses."""
    bounds = cases.VLC.model_copy(update=dict.fromkeys(("temperature", "min_temperature", "max_temperature"), 0.2))
    tasks = (Task.IMAGE_TEXT, Task.IMAGE_TEXT)
    expected = runs.outcome(Case(vlc=bounds), tasks, "megatron-bounds")
    assert expected[1]["weight/heads.contrast.log_temperature"] == pytest.approx(math.log(0.2))
    case = Case(layout=LAYOUTS[layout], deepspeed=STAGES[stage], vlc=bounds)
    compare(expected, runs.outcome(case, tasks, f"{stage}-{layout}-bounds"))


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(runs: Runs, stage: str) -> None:
    case = Case(layout=LAYOUTS["dp2"], deepspeed=STAGES[stage], microbatches=2)
    run_dir = runs.start(f"{stage}-resumed")
    for tasks in (MIXED[:2], MIXED):
        run_ranks(2, go_on, case.config(run_dir), tasks)
    _, expected = runs.outcome(case, MIXED, f"{stage}-undisturbed")
    found = saved(run_dir, len(MIXED))
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


ONWARD = [
    ("zero3 dp2", "zero1 one"),
    pytest.param("megatron tp2", "zero3 dp2", marks=pytest.mark.long),
    pytest.param("zero3 dp2", "megatron tp2", marks=pytest.mark.long),
]
"""Who saves, and who goes on from there."""


@pytest.mark.parametrize(("first", "then"), ONWARD)
def test_any_engine_stage_and_layout_goes_on_from_any_other(runs: Runs, first: str, then: str) -> None:
    kinds = {
        "megatron tp2": Case(layout=LAYOUTS["tp2"]),
        "zero3 dp2": Case(layout=LAYOUTS["dp2"], deepspeed=STAGES["zero3"]),
        "zero1 one": Case(deepspeed=STAGES["zero1"]),
    }
    run_dir, figures = runs.start(f"{first} then {then}"), []
    for kind, tasks in ((first, MIXED[:2]), (then, MIXED)):
        figures.append(run_ranks(kinds[kind].layout.world_size, go_on, kinds[kind].config(run_dir), tasks)[0])
    compare(runs.outcome(Case(), MIXED, "megatron-4"), ([figures[0] + figures[1]], saved(run_dir, len(MIXED))))


@pytest.mark.long
def test_frozen_modules_stay_and_the_rest_trains_alike(runs: Runs) -> None:
    frozen = (Module.VISION, Module.TEXT)
    case = Case(layout=LAYOUTS["dp2"], deepspeed=STAGES["zero3"], frozen=frozen)
    found = runs.outcome(case, MIXED, "zero3-frozen")
    compare(runs.outcome(Case(frozen=frozen), MIXED, "megatron-frozen"), found)
    assert "weight/text.embedding.word.weight" in found[1] and "exp_avg/text.embedding.word.weight" not in found[1]


@pytest.mark.long
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_bf16_trains_like_the_other_engine_within_its_rounding(runs: Runs, stage: str) -> None:
    case = Case(layout=LAYOUTS["dp2"], deepspeed=STAGES[stage], precision=Precision.BF16)
    [plain], _ = runs.outcome(Case(precision=Precision.BF16), MIXED, "megatron-bf16")
    for ranks in runs.outcome(case, MIXED, f"{stage}-bf16")[0]:
        for one, other in zip(plain, ranks, strict=True):
            assert other.losses == pytest.approx(one.losses, rel=0.02)
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=0.1)


@pytest.mark.parametrize(
    ("stage", "layout"),
    [("zero3", "one"), pytest.param("zero2", "dp2", marks=pytest.mark.long), pytest.param("zero1-offload", "dp2", marks=pytest.mark.long)],
)
def test_a_refused_step_leaves_no_trace(runs: Runs, stage: str, layout: str) -> None:
    tensors: list[Tensors] = []
    for case in (Case(), Case(layout=LAYOUTS[layout], deepspeed=STAGES[stage])):
        run_dir = runs.start(f"{stage}-refused-{len(tensors)}")
        run_ranks(case.layout.world_size, go_on_without_the_first, case.config(run_dir), MIXED[:3])
        tensors.append(saved(run_dir, 3))
    compare_tensors(*tensors)


def test_a_gradient_that_is_no_number_is_told_on_all_ranks(runs: Runs) -> None:
    case = Case(layout=LAYOUTS["dp2"], deepspeed=STAGES["zero2"])
    reasons = run_ranks(2, told_of_nan, case.config(runs.start("nan")))
    assert len(set(reasons)) == 1 and "no number" in reasons[0]
