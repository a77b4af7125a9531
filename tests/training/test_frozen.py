"""Frozen modules at every layout against one process that freezes them in plain torch: no gradient, no state, no message, no change."""

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from megatron_mplug2.checkpoint.optimizer_state import main_weights
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block, Module
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import InitialiseConfig, Precision
from megatron_mplug2.data.state import DataState
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.norms import weight_norms
from megatron_mplug2.training.step import backward
from tests.ranks import run_ranks
from tests.training import cases, record, reference
from tests.training.compare import LOSS, WEIGHT, compare_step
from tests.training.record import Record
from tests.training.test_bf16 import LOSS as BF16_LOSS
from tests.training.test_queue import QUEUE
from tests.training.test_replay import NOISY

TASKS = (Task.TEXT, Task.IMAGE_TEXT, Task.VIDEO_TEXT, Task.TEXT)
FROZEN = {
    "towers": (Module.VISION, Module.TEMPORAL, Module.TEXT),
    "pictures": (Module.VISION, Module.TEXT),
    "late": (Module.FUSION, Module.DECODER, Module.HEADS),
    "all-but-heads": tuple(set(Module) - {Module.HEADS}),
}
# The chain of the case is described in test_equivalence.py.
LAYOUTS = {
    "tp2-sp": LayoutConfig(tensor=2, sequence_parallel=True),
    "dp2-zero1-overlap": LayoutConfig(data=2, overlap_grad_reduce=True, overlap_param_gather=True),
    "pp2-in-vision": LayoutConfig(pipeline=2, stage_starts=(2,), zero1=False),
    "pp2-zero1": LayoutConfig(pipeline=2, stage_starts=(7,)),
    "pp2-dp2-overlap": LayoutConfig(pipeline=2, data=2, stage_starts=(7,), overlap_grad_reduce=True, overlap_param_gather=True),
    "pp4-heads-apart": LayoutConfig(pipeline=4, stage_starts=(9, 11, 14)),
    "pp4-both-ties": LayoutConfig(pipeline=4, stage_starts=(6, 9, 15), zero1=False),
}
SHORT = [
    ("pp2-dp2-overlap", "towers"),  # stage 0 is wholly frozen
    ("pp4-heads-apart", "all-but-heads"),  # losses ride on messages that no gradient comes back for
    ("pp4-both-ties", "late"),  # a tie is frozen, and so is the last stage
]


def config_at(layout: str, frozen: str, precision: Precision = Precision.FP32) -> RunConfig:
    found = LAYOUTS[layout]
    return cases.config(found, microbatch=cases.GLOBAL_BATCH // (2 * found.data), frozen=FROZEN[frozen], precision=precision)


@cache
def expected(frozen: str) -> Record:
    return run_ranks(1, reference.run, cases.config(LayoutConfig(), frozen=FROZEN[frozen]), TASKS)[0]


def check(layout: str, frozen: str) -> None:
    ranks = run_ranks(LAYOUTS[layout].world_size, record.run, config_at(layout, frozen), TASKS)
    wanted = expected(frozen)
    for step, plain in enumerate(wanted.steps):
        compare_step(plain, ranks, step)
    first, last = ranks[0].steps[0].weights, ranks[0].steps[-1].weights
    assert all(torch.equal(last[name], first[name]) for name in first if name not in wanted.steps[0].gradients)


@pytest.mark.parametrize(("layout", "frozen"), SHORT)
def test_the_rest_trains_as_in_one_process(layout: str, frozen: str) -> None:
    check(layout, frozen)


@pytest.mark.long
@pytest.mark.parametrize(("layout", "frozen"), [case for case in product(LAYOUTS, FROZEN) if case not in SHORT])
def test_the_rest_trains_as_in_one_process_everywhere(layout: str, frozen: str) -> None:
    check(layout, frozen)


def gradients_sent(config: RunConfig) -> tuple[list[int], int, list[str]]:
    """Messages to the stage before in a step of each task; weights with optimizer state; modules whose norms are told."""
    sent: list[int] = []
    communicate = P2PCommunicator._communicate

    def counting(self: P2PCommunicator, **arguments: object) -> object:
        sent[-1] += arguments["tensor_send_prev"] is not None
        return communicate(self, **arguments)

    P2PCommunicator._communicate = counting
    engine = make_engine(config)
    for number, task in enumerate(Task):
        sent.append(0)
        record.train(engine, (task,), number)
    return sent, len(list(main_weights(engine.optimizer))), list(weight_norms(engine))


def test_no_gradient_is_sent_that_nothing_waits_for() -> None:
    """Two microbatches a step, over cuts in vision, before the text encoder, and after the universal layers."""
    layout = LayoutConfig(pipeline=4, stage_starts=(2, 5, 9))
    config = cases.config(layout, microbatch=cases.GLOBAL_BATCH // 2, frozen=FROZEN["towers"])
    sent, states, norms = zip(*run_ranks(4, gradients_sent, config), strict=True)
    assert sent == ([0, 0, 0], [0, 0, 0], [0, 0, 0], [2, 2, 2])
    assert states[:2] == (0, 0) and all(states[2:])
    assert norms[0] == ["universal", "fusion", "decoder", "heads"]


def test_text_passes_frozen_and_trained_vision_stages_without_a_gradient() -> None:
    config = cases.config(LayoutConfig(pipeline=2, stage_starts=(2,)), microbatch=cases.GLOBAL_BATCH // 2, frozen=FROZEN["pictures"])
    (_, second) = run_ranks(2, gradients_sent, config)
    assert dict(zip(Task, second[0], strict=True)) == {Task.TEXT: 0, Task.IMAGE_TEXT: 0, Task.VIDEO_TEXT: 2}


@pytest.mark.long
def test_dropout_draws_alike_on_all_layouts_and_not_at_all_in_frozen_blocks() -> None:
    microbatch, frozen = cases.GLOBAL_BATCH // 4, FROZEN["towers"]
    (plain,) = run_ranks(1, reference.run, cases.config(LayoutConfig(), microbatch=microbatch, frozen=frozen, model=NOISY), TASKS[:3])
    config = cases.config(LAYOUTS["pp2-dp2-overlap"], microbatch=microbatch, frozen=frozen, model=NOISY, recompute=tuple(Block))
    ranks = run_ranks(4, record.run, config, TASKS[:3])
    for step, wanted in enumerate(plain.steps):
        compare_step(wanted, ranks, step)


def visual_tokens(config: RunConfig) -> list[torch.Tensor]:
    """What vision gives in two steps that draw other masks."""
    engine = record.begin(config)
    seen: list[torch.Tensor] = []
    engine.stage.block("vision.output").register_forward_hook(lambda *arguments: seen.append(arguments[2].detach()))
    batches = cases.work(config, 0, Task.IMAGE_TEXT, 0, 1)
    for step in (0, 1):
        backward(engine, replace(batches, step=step))
    return seen


@pytest.mark.parametrize(("frozen", "equal"), [((Module.VISION, Module.TEMPORAL), True), ((Module.TEMPORAL,), False)])
def test_a_frozen_block_is_a_fixed_function(frozen: tuple[Module, ...], equal: bool) -> None:
    first, second = run_ranks(1, visual_tokens, cases.config(LayoutConfig(), frozen=frozen, model=NOISY))[0]
    assert torch.equal(first, second) == equal


def queue_config(layout: LayoutConfig) -> RunConfig:
    return cases.config(layout, microbatch=cases.GLOBAL_BATCH // 2, frozen=FROZEN["pictures"], vlc=QUEUE)


def test_momentum_encoders_follow_what_is_trained() -> None:
    (plain,) = run_ranks(1, reference.run, queue_config(LayoutConfig()), TASKS[1:])
    ranks = run_ranks(2, record.run, queue_config(LAYOUTS["pp2-in-vision"]), TASKS[1:])
    for step, wanted in enumerate(plain.steps):
        compare_step(wanted, ranks, step)
        averages = record.merge(ranks, step, "averages")
        assert averages and not [name for name in averages if name not in wanted.gradients]
        assert all(float((average - wanted.averages[name]).abs().max()) <= WEIGHT for name, average in averages.items())


def save_and_go_on(config: RunConfig) -> Record:
    engine = record.begin(config)
    record.train(engine, TASKS[:2])
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=2, datasets={}, vocabulary=""), HealthState())
    return record.train(engine, TASKS[2:], 2)


def resume(config: RunConfig) -> Record:
    engine = make_engine(config)
    checkpoints.start(engine)
    return record.train(engine, TASKS[2:], 2)


@pytest.mark.parametrize("precision", [pytest.param(Precision.FP32, marks=pytest.mark.long), Precision.BF16])
def test_a_resume_goes_on_here_and_elsewhere(tmp_path: Path, precision: Precision) -> None:
    """Saved where a whole stage is frozen; read there, and where none is. With other modules it is refused: `config.resume`."""
    saved, other = (config_at(name, "towers", precision).model_copy(update={"run_dir": tmp_path}) for name in ("pp2-zero1", "tp2-sp"))
    straight, resumed = run_ranks(2, save_and_go_on, saved), run_ranks(2, resume, saved)
    for rank, undisturbed in zip(resumed, straight, strict=True):
        for step, wanted in zip(rank.steps, undisturbed.steps, strict=True):
            assert step.losses == wanted.losses and all(torch.equal(step.weights[name], wanted.weights[name]) for name in wanted.weights)
    elsewhere = run_ranks(2, resume, other)
    for step, plain in enumerate(straight[0].steps):
        assert elsewhere[0].steps[step].losses == pytest.approx(plain.losses, abs=LOSS if precision is Precision.FP32 else BF16_LOSS)


def weights_of(config: RunConfig, tasks: tuple[Task, ...]) -> dict[str, torch.Tensor]:
    """After steps of `tasks`, saved."""
    engine = record.begin(config)
    checkpoints.start(engine)
    record.train(engine, tasks)
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=len(tasks), datasets={}, vocabulary=""), HealthState())
    return {weight.name: weight.param.detach().clone() for weight in engine.weights}


def test_a_run_freezes_what_it_begins_with(tmp_path: Path) -> None:
    """Modules of another run, which trained them."""
    first = cases.config(LayoutConfig()).model_copy(update={"run_dir": tmp_path / "first"})
    begun = InitialiseConfig(checkpoint=tmp_path / "first", modules=("vision",))
    frozen = cases.config(LayoutConfig(), frozen=(Module.VISION, Module.TEMPORAL))
    second = frozen.model_copy(update={"run_dir": tmp_path / "second", "initialise_from": begun})
    (trained,), (after,) = (run_ranks(1, weights_of, config, (Task.VIDEO_TEXT,)) for config in (first, second))
    same = {name for name, weight in after.items() if torch.equal(weight, trained[name])}
    assert {name for name in after if name.startswith("vision.")} <= same and "fusion.layers.0.mlp.linear_fc1.weight" not in same
