"""Runs with a gradient that is no number in the middle: what they skip, where they go back to, and that a resume does the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.local import launch
from megatron_mplug2.checkpoint import commit, store
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.training import loop
from megatron_mplug2.training.health_state import HealthState
from tests.training.corpus import demo_config
from tests.training.faults import break_off, fault_at, put_nan

LIMIT = pytest.raises(UserError, match=r"2 bad steps in a row, training\.bad_step_limit=2")
REASON = "a loss or gradient is no number"


def text_run(corpus: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """Ten steps of texts on two tensor-parallel ranks, saved after 3, 6, 9 and 10."""
    schedule = "schedule=[{steps: 10, text: 1, resolution: 32}]"
    layout = ["layout.data=1", "layout.tensor=2", "training.microbatch=8", "data.workers=0", "training.hang_timeout_s=0"]
    return demo_config(corpus, run_dir, [schedule, *layout, "training.checkpoint_every=3", "training.keep_checkpoints=9", *overrides])


def lines(config: RunConfig, kind: str = "train") -> dict[int, dict[str, Any]]:
    """Without what is time."""
    found = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: {name: value for name, value in line.items() if not name.endswith("_s")} for line in found if line["kind"] == kind
    }


def health(config: RunConfig, step: int) -> HealthState:
    checkpoint = store.checkpoint_folder(config.run_dir) / commit.folder_name(step)
    return HealthState.model_validate(store.read_run(checkpoint).health)


def left_out(config: RunConfig, step: int) -> list[tuple[int, int]]:
    return [(entry.first, entry.last) for entry in health(config, step).left_out]


def history(config: RunConfig) -> list[tuple[str, int, Any]]:
    found = [json.loads(line) for line in (config.run_dir / "history.jsonl").read_text().splitlines()]
    return [(event["event"], event["step"], event.get("reason", event.get("lost_steps"))) for event in found]


def test_a_bad_step_is_skipped_and_a_resume_knows_of_it(corpus: Path, tmp_path: Path) -> None:
    straight = text_run(corpus, tmp_path / "straight", "training.on_bad_step=skip")
    with fault_at(4, rank=1, fault=put_nan):
        launch(straight, loop.pretrain)
    assert {step for step, line in lines(straight).items() if "bad" in line} == {4}
    assert left_out(straight, 3) == [] and left_out(straight, 6) == left_out(straight, 10) == [(4, 4)]
    broken = text_run(corpus, tmp_path / "broken", "training.on_bad_step=skip")
    with fault_at(4, rank=1, fault=put_nan), pytest.raises(Exception, match="the rank is broken"), fault_at(8, rank=1, fault=break_off):
        launch(broken, loop.pretrain)
    with fault_at(4, rank=1, fault=put_nan):
        launch(broken, loop.pretrain)
    assert lines(broken) == lines(straight)
    assert health(broken, 10).recent == health(straight, 10).recent
    assert left_out(broken, 10) == [(4, 4)]


def test_a_run_goes_back_to_the_newest_checkpoint(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = text_run(corpus, tmp_path / "run", "training.on_bad_step=roll_back")
    with fault_at(4, rank=1, fault=put_nan):
        launch(config, loop.pretrain)
    assert "; back to the weights after step 3, without the samples of 2 steps" in capfd.readouterr().err
    assert left_out(config, 5) == left_out(config, 10) == [(3, 4)], "saved at once, for a resume"
    told = [("start", 0), ("checkpoint", 3), ("bad step", 4), ("roll back", 5), ("checkpoint", 5), ("checkpoint", 6)]
    assert [event[:2] for event in history(config)][:6] == told
    assert history(config)[2][2].startswith(REASON) and history(config)[3][2] == 2
    assert history(config)[-1] == ("end", 10, "finished")
    summary = json.loads((config.run_dir / "run_summary.json").read_text())
    assert (summary["step"], summary["lost_steps"], summary["steps_left_out"], summary["end"]) == (10, 2, 2, "finished")
    assert 0 < summary["effective_training_time"] < 1
    assert summary["productive_s"] == pytest.approx(health(config, 10).productive_s, abs=1e-3)


def test_bad_steps_that_end_a_run(corpus: Path, tmp_path: Path) -> None:
    stops = text_run(corpus, tmp_path / "stop")
    with fault_at(4, rank=1, fault=put_nan), pytest.raises(UserError, match=rf"^step 4 \(text\): {REASON} .*it was not taken: lower opt"):
        launch(stops, loop.pretrain)
    assert commit.latest(store.checkpoint_folder(stops.run_dir)) == 3
    assert history(stops)[-1][2].startswith(f"UserError: step 4 (text): {REASON}")


@pytest.mark.long
def test_a_run_that_went_back_is_as_if_the_steps_since_had_not_been(corpus: Path, tmp_path: Path) -> None:
    config = text_run(corpus, tmp_path / "run", "training.on_bad_step=roll_back")
    with fault_at(4, rank=1, fault=put_nan):
        launch(config, loop.pretrain)
    never = text_run(corpus, tmp_path / "never", "training.on_bad_step=skip", "training.bad_step_limit=9")
    with fault_at(3, rank=1, fault=put_nan), fault_at(4, rank=0, fault=put_nan):
        launch(never, loop.pretrain)
    after, expected = lines(config), lines(never)
    assert {step: after[step] for step in range(5, 10)} == {step: expected[step] for step in range(5, 10)}, "as if 3 and 4 had not been"


@pytest.mark.long
def test_bad_steps_that_cannot_be_mended(corpus: Path, tmp_path: Path) -> None:
    early = text_run(corpus, tmp_path / "early", "training.on_bad_step=roll_back")
    with fault_at(1, rank=0, fault=put_nan), pytest.raises(UserError, match=r"^no checkpoint in .* to roll back to"):
        launch(early, loop.pretrain)
    limited = text_run(corpus, tmp_path / "limited", "training.on_bad_step=skip", "training.bad_step_limit=2")
    with fault_at(0, rank=1, fault=put_nan), fault_at(1, rank=0, fault=put_nan), LIMIT:
        launch(limited, loop.pretrain)
