"""k steps, a checkpoint, and N-k steps on any layout come to the same bits as N steps on one rank: losses, weights, optimizer state."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.training import Precision
from tests.checkpoint.runs import (
    FIRST,
    LAYOUTS,
    MATRIX,
    THEN,
    Outcome,
    assert_same,
    load,
    resume,
    resume_from_each,
    save,
    state_of,
    train_save_train,
    uninterrupted,
    whole,
)
from tests.checkpoint.toy import FROZEN, UNTOUCHED, Setup, Toy
from tests.ranks import run_ranks

ALL_LAYOUTS: dict[str, LayoutConfig] = LAYOUTS | MATRIX
Source = Callable[[str, Precision], Path]

PAIRS = [
    ("one", "tp2"),
    ("tp2", "one"),
    ("one zero1", "dp2"),
    ("dp2", "dp4 zero1"),
    ("dp2 zero1", "one"),
    ("dp4 zero1", "dp2 zero1"),
    ("dp4 zero1", "tp4"),
    ("tp4", "dp4 zero1"),
    ("tp2 dp2 zero1", "tp4"),
    ("one", "pp2"),
    ("pp2", "one zero1"),
    ("pp2 dp2 zero1", "tp2 dp2 zero1"),
    ("dp4 zero1", "pp2 dp2 zero1"),
    ("tp2 dp2 zero1", "tp2 pp2 dp2 zero1"),
]


@cache
def reference(precision: Precision, sgd: bool = False) -> Outcome:
    outcome: Outcome = run_ranks(1, uninterrupted, Setup(layout=LAYOUTS["one"], precision=precision, sgd=sgd))[0]
    return outcome


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Makes a checkpoint on a layout, once; asserts that the run which saved it goes on as if it had not."""

    @cache
    def made(layout: str, precision: Precision) -> Path:
        folder = tmp_path_factory.mktemp("checkpoints")
        setup = Setup(layout=ALL_LAYOUTS[layout], precision=precision)
        assert_same(run_ranks(setup.layout.world_size, train_save_train, folder, setup), reference(precision))
        return folder

    return made


def go_on(folder: Path, layout: str, precision: Precision, *, used: bool = True, overlap: bool = False) -> list[Outcome]:
    setup = Setup(layout=LAYOUTS[layout], precision=precision, overlap=overlap, start="other")
    outcomes: list[Outcome] = run_ranks(setup.layout.world_size, resume, folder, setup, used)
    return outcomes


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("layout", ["one", "tp2", "dp2", "dp2 zero1", "pp2", "tp2 dp2 zero1"])
def test_the_same_layout(source: Source, layout: str, precision: Precision) -> None:
    assert_same(go_on(source(layout, precision), layout, precision), reference(precision))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("layout", ["one", "dp2 zero1"])
def test_into_a_fresh_optimizer(source: Source, layout: str, precision: Precision) -> None:
    assert_same(go_on(source(layout, precision), layout, precision, used=False), reference(precision))


@pytest.mark.parametrize(("saved", "loaded"), PAIRS)
def test_another_layout(source: Source, saved: str, loaded: str) -> None:
    assert_same(go_on(source(saved, Precision.FP32), loaded, Precision.FP32), reference(Precision.FP32))


@pytest.mark.parametrize(("saved", "loaded"), [("dp4 zero1", "tp2"), ("tp2", "dp2 zero1"), ("pp2 dp2 zero1", "dp2")])
def test_fp32_copies_of_bf16_weights(source: Source, saved: str, loaded: str) -> None:
    assert_same(go_on(source(saved, Precision.BF16), loaded, Precision.BF16), reference(Precision.BF16))


@pytest.mark.long
@pytest.mark.parametrize(
    ("loaded", "precision"),
    [
        *((loaded, Precision.FP32) for loaded in (*MATRIX, "tp4", "dp4 zero1")),
        *((loaded, Precision.BF16) for loaded, layout in MATRIX.items() if layout.zero1),
    ],
)
def test_every_layout_from_every_other(source: Source, loaded: str, precision: Precision) -> None:
    setup = Setup(layout=ALL_LAYOUTS[loaded], precision=precision, start="other")
    folders = [source(saved, precision) for saved in MATRIX]
    outcomes: list[list[Outcome]] = run_ranks(setup.layout.world_size, resume_from_each, folders, setup)
    for number in range(len(folders)):
        assert_same([of_rank[number] for of_rank in outcomes], reference(precision))


@pytest.mark.parametrize("precision", list(Precision))
def test_weights_that_are_still_to_be_gathered(tmp_path: Path, precision: Precision) -> None:
    """With overlapped gathering only a weight's owner has it up to date when the checkpoint is written."""
    setup = Setup(layout=LAYOUTS["dp2 zero1"], precision=precision, overlap=True)
    assert_same(run_ranks(2, train_save_train, tmp_path, setup), reference(precision))
    assert_same(go_on(tmp_path, "dp2 zero1", precision, overlap=True), reference(precision))
    assert_same(go_on(tmp_path, "tp2", precision), reference(precision))


@pytest.mark.parametrize(("saved", "loaded"), [("one", "one"), ("tp2", "dp2"), ("dp2", "pp2")])
@pytest.mark.parametrize("precision", list(Precision))
def test_sgd_with_momentum(tmp_path: Path, saved: str, loaded: str, precision: Precision) -> None:
    first, then = (Setup(layout=LAYOUTS[layout], precision=precision, sgd=True) for layout in (saved, loaded))
    run_ranks(first.layout.world_size, train_save_train, tmp_path, first)
    assert_same(run_ranks(then.layout.world_size, resume, tmp_path, then, True), reference(precision, sgd=True))


def test_the_reference_is_trained() -> None:
    """What the tests above compare with: groups, untouched, frozen and tied weights, and one count of updates for each weight."""
    before = run_ranks(1, canonical_at, 0)[0]
    after = reference(Precision.FP32)
    moved = {name: (after.weights[name] - value).abs().max().item() for name, value in before.items()}
    assert moved.pop(FROZEN) == 0
    assert 0 < moved.pop(UNTOUCHED) < 0.01, "weight decay alone"
    assert all(move > 0.01 for move in moved.values())
    assert moved["second.weight"] > 3 * moved["first.weight"], "a learning rate of its own"
    steps = {key: value.item() for key, value in whole([after]).items() if key.startswith("step/")}
    assert steps.keys() == {f"step/{name}" for name in before if name != FROZEN}
    assert set(steps.values()) == {FIRST + THEN}


def canonical_at(step: int) -> dict[str, torch.Tensor]:
    toy = Toy(Setup(layout=LAYOUTS["one"]))
    toy.train(0, step)
    return toy.canonical()


def save_untrained(folder: Path, setup: Setup) -> Outcome:
    toy = Toy(setup)
    save(folder, toy, 0)
    return Outcome(losses=toy.train(0, FIRST + THEN), weights=toy.canonical(), held=toy.held())


def load_untrained(folder: Path, setup: Setup) -> Outcome:
    toy = Toy(setup)
    assert load(folder, toy).state.step == 0
    return Outcome(losses=toy.train(0, FIRST + THEN), weights=toy.canonical(), held=toy.held())


@pytest.mark.parametrize("layout", ["one", "dp2 zero1"])
def test_before_the_first_step(tmp_path: Path, layout: str) -> None:
    """Optimizer state that no step has made yet is saved as zeros, and that changes nothing."""
    setup = Setup(layout=LAYOUTS[layout])
    for work in (save_untrained, load_untrained):
        assert_same(run_ranks(setup.layout.world_size, work, tmp_path, setup), reference(Precision.FP32))


def only_weights(folder: Path, setup: Setup) -> tuple[RunState, dict[str, torch.Tensor]]:
    toy = Toy(setup)
    with torch.no_grad():
        for weight in toy.weights:
            weight.param.fill_(7.0)
    found = store.find(folder)
    assert isinstance(found, store.Found)
    store.load_weights(found, toy.weights, toy.topology)
    return found.state, toy.canonical()


@pytest.mark.parametrize(("saved", "loaded"), [("dp2 zero1", "tp2"), ("tp2", "pp2"), ("pp2", "one")])
@pytest.mark.parametrize("precision", list(Precision))
def test_weights_alone(source: Source, saved: str, loaded: str, precision: Precision) -> None:
    folder = source(saved, precision)
    setup = Setup(layout=LAYOUTS[loaded], precision=precision, start="other")
    expected = run_ranks(1, canonical_of_resumed, folder, Setup(layout=LAYOUTS["one"], precision=precision))[0]
    for state, weights in run_ranks(setup.layout.world_size, only_weights, folder, setup):
        assert state == state_of(FIRST)
        assert [name for name, value in weights.items() if not torch.equal(value, expected[name])] == []


def canonical_of_resumed(folder: Path, setup: Setup) -> dict[str, torch.Tensor]:
    toy = Toy(setup)
    load(folder, toy)
    return toy.canonical()


def test_the_state_is_read_without_ranks(source: Source) -> None:
    folder = source("dp2 zero1", Precision.FP32)
    assert store.read_run(folder / "step-00000002") == state_of(FIRST)
