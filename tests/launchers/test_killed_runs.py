"""The account of a real run that is killed five times, held against a clock outside of it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.summaries import lines_of, summary_of
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.observability.last_step import last_train_step
from megatron_mplug2.observability.time_account import Part
from tests.training.corpus import demo_config, make_corpus

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
STEPS, KILLED_AFTER = 18, (3, 6, 8, 11, 13)
"""Of the schedule; indices of steps, between two checkpoints each, that are done when a kill comes."""
PATIENCE_S = 200


def end_after(folder: Path, run: Path, last: int | None) -> None:
    """Starts the run and kills it when step `last` is done; None waits for its own end."""
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "megatron_mplug2.cli", "pretrain", "run.yaml"]
    deadline = time.monotonic() + PATIENCE_S
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        while process.poll() is None and (last is None or (last_train_step(run) or 0) < last):
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.01)
        assert process.returncode == (0 if last is None else None), (folder / "log").read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def test_the_parts_add_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    schedule = [f"schedule=[{{steps: {STEPS}, text: 1, resolution: 32}}]", "data.workers=0", "layout.data=1"]
    small = ["training.global_batch=2", "training.validation_batches=1", "training.validate_every=4", "training.checkpoint_every=2"]
    config = demo_config(make_corpus(tmp_path / "corpus"), run, [*schedule, *small])
    (tmp_path / "run.yaml").write_text(resolved_yaml(config))
    outside: list[tuple[float, float]] = []
    for last in (*KILLED_AFTER, None):
        begin = time.time()
        end_after(tmp_path, run, last)
        outside.append((begin, time.time()))

    summary = summary_of(run)
    assert summary is not None
    told = summary.account
    assert (summary.steps, len(told.starts)) == (STEPS, 6)
    for (begin, end), found in zip(outside, told.starts, strict=True):
        assert begin <= found.begin <= found.end <= end, "within what the clock outside says of this start"
        assert all(seconds >= 0 for seconds in found.seconds.values())
    first = told.starts[0].begin
    for before, found in zip((first, *(each.end for each in told.starts)), told.starts, strict=False):
        assert sum(found.seconds.values()) == pytest.approx(found.end - before, abs=0.05), "nothing is counted twice, nothing is left out"
    own = json.loads((run / "run_summary.json").read_text())
    assert told.seconds[Part.STEPS] == pytest.approx(own["productive_s"], abs=0.05)
    assert told.effective == pytest.approx(own["effective_training_time"], abs=0.01), "one name, one number"
    assert told.lost_steps == own["lost_steps"] > 0 and told.seconds[Part.LOST] > 0
    assert (
        told.seconds[Part.START_UP] > told.seconds[Part.SHUTDOWN]
        and told.seconds[Part.CHECKPOINT] > 0
        and told.seconds[Part.VALIDATION] > 0
    )
    assert [each.reason for each in told.starts] == [*["ended without a word"] * 5, "finished"]
    print("\n".join(lines_of(summary)))
