"""Which checkpoints a run goes on from, with the real model and its real engine."""

from pathlib import Path

from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schema import LayoutConfig, RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.errors import UserError
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import make_engine
from tests.ranks import run_ranks
from tests.training import cases


def config_in(run_dir: Path, **changes: object) -> RunConfig:
    return cases.config(LayoutConfig()).model_copy(update={"run_dir": run_dir, **changes})


def data_state(step: int) -> DataState:
    return DataState(steps=step, fingerprints={}, vocabulary="v")


def save(config: RunConfig, steps: list[int]) -> None:
    engine = make_engine(config)
    with checkpoints.Saver(engine, print) as saver:
        for step in steps:
            saver.save(data_state(step))


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
        saver.save(data_state(1))


def test_a_setting_of_another_version_is_named_in_one_line(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_ranks(1, save_as_another_version, config)
    line = run_ranks(1, started, config)[0]
    assert line.startswith(f"the config in {tmp_path}/checkpoints/step-00000001: 2 errors: experts: unknown key")
    assert line.endswith("; it is another version's") and "\n" not in line
