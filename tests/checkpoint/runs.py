"""Runs of the toy on forked ranks: what is trained, saved, loaded and trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.optimizer_state import held_states
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.errors import UserError
from tests.checkpoint.toy import Box, Setup, Toy
from tests.ranks import run_ranks

FIRST, THEN = 2, 3
"""Steps before and after the checkpoint."""

MATRIX = {
    f"tp{tensor} pp{pipeline} dp{data}{' zero1' * zero1}": LayoutConfig(tensor=tensor, pipeline=pipeline, data=data, zero1=zero1)
    for tensor, pipeline, data, zero1 in product((1, 2), (1, 2), (1, 2), (False, True))
}
"""Every layout of up to two ranks a dimension, with and without ZeRO-1."""

LAYOUTS = {
    "one": LayoutConfig(zero1=False),
    "one zero1": LayoutConfig(),
    "tp2": LayoutConfig(tensor=2, zero1=False),
    "tp4": LayoutConfig(tensor=4),
    "dp2": LayoutConfig(data=2, zero1=False),
    "dp2 zero1": LayoutConfig(data=2),
    "dp4 zero1": LayoutConfig(data=4),
    "tp2 dp2 zero1": LayoutConfig(tensor=2, data=2),
    "pp2": LayoutConfig(pipeline=2, zero1=False),
    "pp2 dp2 zero1": LayoutConfig(pipeline=2, data=2),
    "tp2 pp2 dp2 zero1": LayoutConfig(tensor=2, pipeline=2, data=2),
}
DP2 = Setup(layout=LAYOUTS["dp2 zero1"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rank comes to."""

    losses: list[float]
    """Before each step."""
    weights: dict[str, torch.Tensor]
    """Canonical parameters of the rank's stage."""
    held: list[tuple[str, Box]]
    """What the rank would save."""


def state_of(step: int) -> RunState:
    return RunState(step=step, config="name: toy\n", data={"position": 64 * step, "substitutions": [[3, 4]]})


def outcome_of(toy: Toy, losses: list[float]) -> Outcome:
    return Outcome(losses=losses, weights=toy.canonical(), held=toy.held())


def uninterrupted(setup: Setup) -> Outcome:
    toy = Toy(setup)
    return outcome_of(toy, toy.train(0, FIRST + THEN))


def save(folder: Path, toy: Toy, step: int, keep: int = 2) -> Path:
    return store.save(folder, state_of(step), toy.weights, toy.optimizer, toy.topology, Retention(last=keep))


def load(folder: Path, toy: Toy) -> store.Found:
    """The newest good one, into the toy."""
    found = store.find(folder)
    assert isinstance(found, store.Found), found
    store.load(found, toy.weights, toy.optimizer, toy.topology)
    return found


def train_save_train(folder: Path, setup: Setup) -> Outcome:
    toy = Toy(setup)
    before = toy.train(0, FIRST)
    save(folder, toy, FIRST)
    return outcome_of(toy, before + toy.train(FIRST, THEN))


def resume_from_each(folders: Sequence[Path], setup: Setup) -> list[Outcome]:
    """In one process group, over numbers everywhere."""
    toy = Toy(setup)
    outcomes = []
    for folder in folders:
        _overwrite(toy)
        assert load(folder, toy).state == state_of(FIRST)
        outcomes.append(outcome_of(toy, toy.train(FIRST, THEN)))
    return outcomes


def resume(folder: Path, setup: Setup, used: bool) -> Outcome:
    """`used`: load over numbers everywhere, pad rows and optimizer state too, instead of into a fresh model and optimizer."""
    toy = Toy(setup)
    if used:
        _overwrite(toy)
    assert load(folder, toy).state == state_of(FIRST)
    return outcome_of(toy, toy.train(FIRST, THEN))


@torch.no_grad()
def _overwrite(toy: Toy) -> None:
    for held in held_states(toy.optimizer).values():
        for tensor in (held.values, *held.states.values(), *([held.step] if held.step is not None else [])):
            tensor.fill_(7.0)
    for weight in toy.weights:
        weight.param.fill_(7.0)


def load_or_line(folder: Path, setup: Setup) -> str | None:
    """The line of the UserError that a load ends in."""
    toy = Toy(setup)
    try:
        load(folder, toy)
    except UserError as error:
        return str(error)
    return None


def refusal(folder: Path, setup: Setup) -> str:
    """The line in which all ranks refuse to load."""
    lines = set(run_ranks(setup.layout.world_size, load_or_line, folder, setup))
    assert len(lines) == 1, lines
    line = lines.pop()
    assert line is not None and "\n" not in line
    return str(line)


def whole(outcomes: Sequence[Outcome]) -> dict[str, torch.Tensor]:
    """The canonical tensors that the ranks hold boxes of; asserts that each element is held once."""
    tensors: dict[str, torch.Tensor] = {}
    for key, box in (entry for outcome in outcomes for entry in outcome.held):
        tensor = tensors.setdefault(key, torch.full(box.full_size, float("nan")))
        assert tensor[box.place].isnan().all(), f"{key} {box.place} is held twice"
        tensor[box.place] = box.values
    assert not any(tensor.isnan().any() for tensor in tensors.values())
    return tensors


def assert_same(outcomes: Sequence[Outcome], reference: Outcome) -> None:
    """Every loss, canonical weight and optimizer state, bit for bit (losses are sums, in an order of the layout's)."""
    steps = len(outcomes[0].losses)
    found, expected = whole(outcomes), whole([reference])
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    for outcome in outcomes:
        torch.testing.assert_close(outcome.losses, reference.losses[-steps:], rtol=1e-13, atol=1e-13)
        assert outcome.weights.keys() <= reference.weights.keys()
        assert [name for name, value in outcome.weights.items() if not torch.equal(value, reference.weights[name])] == []
    assert {name for outcome in outcomes for name in outcome.weights} == reference.weights.keys()
