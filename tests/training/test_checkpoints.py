"""Which checkpoints a run goes on from, with the real model and its real engine."""

from pathlib import Path

import pytest
import torch

from megatron_mplug2.checkpoint.contents import pieces_to_save
from megatron_mplug2.checkpoint.optimizer_state import held_states
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import InitialiseConfig, Precision
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.build import LOG_TEMPERATURE
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import Engine, make_engine
from megatron_mplug2.training.guard import Guard
from megatron_mplug2.training.health_state import HealthState
from megatron_mplug2.training.step import train_step
from tests.ranks import run_ranks
from tests.training import cases


def config_in(run_dir: Path, **changes: object) -> RunConfig:
    return cases.config(LayoutConfig()).model_copy(update={"run_dir": run_dir, **changes})


def data_state(step: int) -> DataState:
    return DataState(steps=step, datasets={}, vocabulary="v")


def save(config: RunConfig, steps: list[int]) -> None:
    engine = make_engine(config)
    with checkpoints.Saver(engine, print) as saver:
        for step in steps:
            saver.save(data_state(step), HealthState())


def started(config: RunConfig) -> checkpoints.Start | str:
    try:
        return checkpoints.start(make_engine(config))
    except UserError as error:
        return str(error)


def test_the_run_goes_on_from_the_newest_good_one(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert run_ranks(1, started, config) == [checkpoints.Start()]
    run_ranks(1, save, config, [1, 2])
    assert run_ranks(1, started, config) == [checkpoints.Start(state=data_state(2))]
    newest = tmp_path / "checkpoints/step-00000002"
    (newest / "__0_0.distcp").unlink()
    assert run_ranks(1, started, config) == [checkpoints.Start(state=data_state(1), said=(f"skipped {newest}: __0_0.distcp is missing",))]


def test_another_setting_is_named(tmp_path: Path) -> None:
    run_ranks(1, save, config_in(tmp_path), [1])
    text = cases.MODEL.text.model_copy(update={"vocab_size": 58})
    other = config_in(tmp_path, model=cases.MODEL.model_copy(update={"text": text}))
    said = f"cannot resume in {tmp_path}: model.text.vocab_size: 59 in the checkpoint, 58 now; it may not change on a resume"
    assert run_ranks(1, started, other) == [said]


def save_as_another_version(config: RunConfig) -> None:
    engine = make_engine(config)
    text = resolved_yaml(config) + "experts: 8\nqueue: 7\n"
    setattr(checkpoints, "resolved_yaml", lambda config: text)  # noqa: B010 (not exported)
    with checkpoints.Saver(engine, print) as saver:
        saver.save(data_state(1), HealthState())


def test_a_setting_of_another_version_is_named_in_one_line(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_ranks(1, save_as_another_version, config)
    line = run_ranks(1, started, config)[0]
    assert line.startswith(f"the config in {tmp_path}/checkpoints/step-00000001: 2 errors: experts: unknown key")
    assert line.endswith("; it is another version's") and "\n" not in line


Weights = dict[str, torch.Tensor]


def begun(config: RunConfig) -> tuple[tuple[str, ...], Weights, Weights]:
    """What is said, this rank's weights, and the optimizer's part of them."""
    engine = make_engine(config)
    said = checkpoints.start(engine).said
    weights = {weight.name: weight.param.detach().float().clone() for weight in engine.weights}
    copies = {weight.name: held.values.clone() for weight in engine.weights if (held := held_states(engine.optimizer).get(weight.param))}
    return said, weights, copies


def from_other(run_dir: Path, source: Path, *modules: str, precision: Precision = Precision.FP32) -> RunConfig:
    """Another seed's run that begins with a checkpoint's modules, on two ranks with ZeRO-1."""
    plain = config_in(run_dir, initialise_from=InitialiseConfig(checkpoint=source, modules=modules), layout=LayoutConfig(data=2))
    return plain.model_copy(update={"training": plain.training.model_copy(update={"seed": 9, "microbatch": 8, "precision": precision})})


@pytest.mark.parametrize("precision", list(Precision))
def test_a_run_begins_with_modules_of_another(tmp_path: Path, precision: Precision) -> None:
    source = tmp_path / "source"
    run_ranks(1, save, config_in(source), [1, 2])
    _, wanted, _ = run_ranks(1, begun, config_in(source))[0]
    other = from_other(tmp_path / "run", source, "vision", "text.layers.0", precision=precision)
    _, own, _ = run_ranks(2, begun, other.model_copy(update={"initialise_from": None}))[0]
    ranks = run_ranks(2, begun, other)
    assert {name for *_, copies in ranks for name in copies} == wanted.keys(), "both hold parts"
    for said, weights, copies in ranks:
        assert said == (f"beginning with vision, text.layers.0 of {source}/checkpoints/step-00000002",)
        for name, value in weights.items():
            taken = name.startswith(("vision.", "text.layers.0."))
            assert torch.equal(value, _rounded(wanted[name], precision, name) if taken else own[name]), name
        named = {name: copy for name, copy in copies.items() if name.startswith("vision.")}
        assert all(torch.isin(copy, wanted[name]).all() for name, copy in named.items()), "the optimizer's copies too, in fp32"


def _rounded(value: torch.Tensor, precision: Precision, name: str) -> torch.Tensor:
    return value.bfloat16().float() if precision is Precision.BF16 and name != LOG_TEMPERATURE else value


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    vision = cases.MODEL.vision.model_copy(update={"blocks": 2})
    run_ranks(1, save, config_in(source, model=cases.MODEL.model_copy(update={"vision": vision})), [1])
    checkpoint = source / "checkpoints/step-00000001"
    said = {
        "visio": "initialise_from.modules: the model has no 'visio'; its modules begin with decoder, fusion, heads, text, ",
        "vision": f"{checkpoint} is of another model: 28 missing (vision.blocks.2.",
        "nothing": f"no checkpoint in {tmp_path}/nothing/checkpoints: train first, or name a run that has one",
    }
    for module, line in said.items():
        place = tmp_path / "nothing" if module == "nothing" else source
        first, second = run_ranks(2, started, from_other(tmp_path / "run", place, module))
        assert first == second and "\n" not in first and first.startswith(line), first


@pytest.mark.parametrize(("saved", "loaded"), [(Precision.FP32, Precision.BF16), (Precision.BF16, Precision.FP32)])
def test_a_run_goes_on_at_another_precision(tmp_path: Path, saved: Precision, loaded: Precision) -> None:
    """With the fp32 weights and optimizer state of the checkpoint, to the bit."""
    config = config_in(tmp_path)
    first, then = (config.model_copy(update={"training": config.training.model_copy(update={"precision": p})}) for p in (saved, loaded))
    before = run_ranks(1, trained_and_saved, first)[0]
    after = run_ranks(1, restored, then)[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def trained_and_saved(config: RunConfig) -> Weights:
    engine = make_engine(config)
    train_step(engine, cases.work(config, 0, Task.IMAGE_TEXT, 0, 1), Guard(config, {}))
    with checkpoints.Saver(engine, print) as saver:
        saver.save(data_state(1), HealthState())
    return _state(engine)


def restored(config: RunConfig) -> Weights:
    engine = make_engine(config)
    assert checkpoints.start(engine).state == data_state(1)
    return _state(engine)


def _state(engine: Engine) -> Weights:
    pieces = pieces_to_save(engine.weights, engine.optimizer, engine.topology)
    assert any(piece.key.startswith("exp_avg/") and piece.tensor.any() for piece in pieces)
    return {f"{piece.key} {piece.offsets}": piece.tensor.clone() for piece in pieces}
