"""What `mplug2 jobs summary` tells of the runs in a folder."""

import json
from pathlib import Path

import pytest

from launchers.launch_folder import Launch, new_folder, write_launch
from launchers.summaries import lines_of, summaries
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import append_event
from tests.observability.test_time_account import LOCAL, job


def test_it_is_told_of_every_run_in_a_folder(tmp_path: Path) -> None:
    local, launched = tmp_path / "local", tmp_path / "launched"
    local.mkdir()
    (local / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in LOCAL))
    (local / "metrics.jsonl").write_text('{"kind": "train", "step": 11}\n')
    (launched / "launches").mkdir(parents=True)
    folder = new_folder(launched / "launches")
    write_launch(folder, Launch(command=("pretrain", "a.yaml"), commit=None, changed=False, nodes=1, tasks_per_node=1))
    append_event(folder, job("submit", 50))
    second, first = summaries(tmp_path)
    assert first.record() == json.loads(json.dumps(first.record()))
    assert first.record()["seconds"]["steps"] == 20 and first.record()["starts"][0]["seconds"]["lost steps"] == 4
    lines = lines_of(first)
    assert lines[0] == f"{local}: step 12, 2 starts in 70.0 s, effective training time 28.6 %, 2 steps lost"
    rows = [line.split() for line in lines[1:]]
    assert ["shutdown", "1.0", "1.4"] in rows and any(row[-3:] == ["without", "a", "word"] for row in rows)
    assert lines_of(second) == [f"{launched}: not started yet"]
    with pytest.raises(UserError, match=r"no run in .*nowhere has begun"):
        summaries(tmp_path / "nowhere")


def test_what_is_no_training_is_told_by_its_last_word(tmp_path: Path) -> None:
    """An evaluation in the folder of a run that ran here; and one that has said nothing yet."""
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in LOCAL))
    (tmp_path / "launches").mkdir()
    for _ in range(2):
        folder = new_folder(tmp_path / "launches")
        write_launch(folder, Launch(command=("evaluate", "my run.yaml"), commit=None, changed=False, nodes=1, tasks_per_node=1))
    first = tmp_path / "launches/0001"
    append_event(first, job("submit", 200))
    append_event(first, job("end", 300).model_copy(update={"code": 86, "next": "end", "why": "no time"}))
    (found,) = summaries(tmp_path)
    assert len(found.account.starts) == 2, "an evaluation is no start of the run"
    assert lines_of(found)[-2:] == [
        "mplug2 evaluate 'my run.yaml': job 7 start 0 ended with 86 (cut short), not requeued: no time",
        "mplug2 evaluate 'my run.yaml': NOT SUBMITTED",
    ]
