"""A rank that stands still ends the run: with stacks, one line about who and where, and no rank left."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.local import launch
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.step_reader import LoadedStep, Recorded, StepReader
from megatron_mplug2.data.watch import Watch
from megatron_mplug2.errors import ExitCode, RankError
from megatron_mplug2.observability.beats import read_beats
from megatron_mplug2.training import loop
from tests.training.corpus import demo_config
from tests.training.faults import Fault, break_off, fault_at, hang, stop_the_process

LIMIT_S = 8
"""Long enough for a slow machine to begin a run in."""


def config_of(corpus: Path, run_dir: Path) -> RunConfig:
    schedule = "schedule=[{steps: 6, text: 1, resolution: 32}]"
    return demo_config(corpus, run_dir, [schedule, "data.workers=0", f"training.hang_timeout_s={LIMIT_S}"])


def assert_gone(config: RunConfig) -> None:
    for beat in read_beats(config.run_dir, 2).values():
        with pytest.raises(ProcessLookupError):
            os.kill(beat.pid, 0)


@pytest.mark.parametrize(
    ("rank", "fault", "said"),
    [
        (1, hang, r"rank 1 of 2 is stuck in step 2, gradient reduction, at .*"),
        pytest.param(1, stop_the_process, r"rank 1 of 2 is silent, last seen in step \d, .* at .*", marks=pytest.mark.long),
        pytest.param(0, hang, r"rank 0 of 2 is stuck in step 2, gradient reduction, at .*", marks=pytest.mark.long),
    ],
)
def test_a_stuck_rank_ends_the_run(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], rank: int, fault: Fault, said: str
) -> None:
    config = config_of(corpus, tmp_path)
    with fault_at(2, rank, fault), pytest.raises(SystemExit) as ended:
        launch(config, loop.pretrain)
    assert ended.value.code == ExitCode.HUNG
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, errors
    limit = f"no progress for {LIMIT_S} s \\(training.hang_timeout_s\\)"
    assert re.match(f"error: {said}: {limit}; stacks of all ranks in {tmp_path}/stacks", errors[0])
    stacks = {path.name: path.read_text() for path in (tmp_path / "stacks").iterdir()}
    assert ("in hang" in stacks.get(f"rank-{rank:05d}.txt", "")) == (fault is hang)
    assert "in all_reduce" in stacks[f"rank-{1 - rank:05d}.txt"]
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert history[-1]["reason"] == errors[0].removeprefix("error: ")
    assert_gone(config)


@pytest.mark.long
def test_a_decoder_that_hangs_where_nobody_watches_ends_the_run(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread that reads ahead, which the stacks show."""
    load = StepReader.load

    def hanging_decoder(reader: StepReader, planned: PlannedStep, recorded: Recorded, watch: Watch) -> LoadedStep:
        while planned.step == 3:
            time.sleep(1.0)
        return load(reader, planned, recorded, watch)

    monkeypatch.setattr(StepReader, "load", hanging_decoder)
    with pytest.raises(SystemExit) as ended:
        launch(config_of(corpus, tmp_path), loop.pretrain)
    assert ended.value.code == ExitCode.HUNG
    assert re.search(r"^error: rank \d of 2 is stuck in step 3, data wait", capfd.readouterr().err, re.MULTILINE)
    stacks = [path.read_text() for path in (tmp_path / "stacks").iterdir()]
    assert len(stacks) == 2 and all("in hanging_decoder" in stack for stack in stacks)


def test_a_rank_that_raises_ends_the_run(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, tmp_path)
    with fault_at(2, 1, break_off), pytest.raises(RankError, match=r"^rank 1 of 2 failed: ValueError: the rank is broken$"):
        launch(config, loop.pretrain)
    assert_gone(config)


SCRIPT = """
import sys
import time
from pathlib import Path
from launchers.local import launch
from megatron_mplug2.config.load import load_config
from megatron_mplug2.training import loop
from tests.training.faults import fault_at, hang

with fault_at(2, 1, hang):
    launch(load_config(Path(sys.argv[1]), []), loop.pretrain)
"""


@pytest.mark.long
def test_a_stuck_rank_under_torchrun(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, tmp_path / "run")
    (tmp_path / "run.yaml").write_text(resolved_yaml(config))
    (tmp_path / "hang.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    job = [*command, str(tmp_path / "hang.py"), str(tmp_path / "run.yaml")]
    done = subprocess.run(job, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert done.stderr.count("error: rank 1 of 2 is stuck in step 2, gradient reduction") == 1, done.stderr
    assert_gone(config)
