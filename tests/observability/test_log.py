"""The run's record, also over a resume."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.last_step import METRICS_NAME, last_train_step
from megatron_mplug2.observability.log import TENSORBOARD_NAME, RunLog
from tests.observability.samples import metrics_of, use_of


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]


def test_a_line_a_step_is_there_at_once(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run") as log:
        log.step(metrics_of(0, vlc=3.5, lm=2.0))
        assert lines_of(tmp_path / "run") == [
            {
                "kind": "train",
                "step": 0,
                "task": "video_text",
                "grad_norm": 1.5,
                "lr": 1e-4,
                "temperature": 0.07,
                "samples_per_s": 93.21,
                "data_wait_s": 0.01,
                "step_s": 0.5,
                "substituted": 0,
                "loss/vlc": 3.5,
                "loss/lm": 2.0,
            }
        ]
        log.validation(0, {"video_text/r1": 0.25})
        assert lines_of(tmp_path / "run")[1] == {"kind": "validation", "step": 0, "video_text/r1": 0.25}


def test_a_bad_step_and_norms_by_module(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.step(replace(metrics_of(0), bad="a spike", module_grad_norms={"text": 2.0}, module_weight_norms={"text": 3.0}))
    (line,) = lines_of(tmp_path)
    assert (line["bad"], line["grad_norm/text"], line["weight_norm/text"]) == ("a spike", 2.0, 3.0)


def test_how_the_ranks_were_used(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.use(use_of(3))
    assert lines_of(tmp_path) == [
        {
            "kind": "use",
            "step": 3,
            "mfu": None,
            "tflops": 0.5,
            "data_wait_share": 0.25,
            "memory_gb": 1.5,
            "sections": {"data wait": {"median": 0.1, "slowest": 0.2, "rank": 1}},
        }
    ]
    events = EventAccumulator(str(tmp_path / TENSORBOARD_NAME)).Reload()
    assert set(events.Tags()["scalars"]) == {
        "use/tflops",
        "use/data_wait_share",
        "use/memory_gb",
        "seconds/data_wait/median",
        "seconds/data_wait/slowest",
    }
    with RunLog(tmp_path, first_step=4):
        assert last_train_step(tmp_path) == 3


def test_a_resume_leaves_no_line_twice(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in range(5):
            log.step(metrics_of(step, vlc=float(step)))
            log.validation(step, {"x": 1.0})
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    with RunLog(tmp_path, first_step=3) as log:
        for step in range(3, 6):
            log.step(metrics_of(step, vlc=10.0 + step))
    train = [(line["step"], line["loss/vlc"]) for line in lines_of(tmp_path) if line["kind"] == "train"]
    assert train == [(0, 0), (1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]
    assert [line["step"] for line in lines_of(tmp_path) if line["kind"] == "validation"] == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS_NAME, TENSORBOARD_NAME]


def test_a_new_run_in_an_old_folder_starts_afresh(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        with RunLog(tmp_path) as log:
            log.step(metrics_of(0, vlc=loss))
    assert [line["loss/vlc"] for line in lines_of(tmp_path)] == [2.0]


def test_tensorboard_has_the_same_figures(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.step(metrics_of(0, vlc=3.0))
        log.step(metrics_of(1, Task.TEXT, mlm=5.0))
        log.step(metrics_of(2, vlc=2.0))
        log.validation(2, {"video_text/r1": 0.25})
    time.sleep(1.1)  # TensorBoard reads event files in the order of their names, which begin with the second: a resume takes longer
    with RunLog(tmp_path, first_step=2) as log:
        log.step(metrics_of(2, vlc=1.0))
    events = EventAccumulator(str(tmp_path / TENSORBOARD_NAME)).Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert shown["video_text/loss/vlc"] == [(0, 3.0), (2, 1.0)]
    assert shown["text/loss/mlm"] == [(1, 5.0)]
    assert [step for step, _ in shown["training/lr"]] == [0, 1, 2]


def test_a_loss_that_is_no_number_is_still_json(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.step(metrics_of(0, vlc=math.nan, lm=math.inf))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    line = json.loads((tmp_path / METRICS_NAME).read_text(), parse_constant=refuse)
    assert (line["loss/vlc"], line["loss/lm"]) == ("nan", "inf")


def test_lines_that_are_no_steps_are_dropped(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.step(metrics_of(0, vlc=1.0))
    with (tmp_path / METRICS_NAME).open("ab") as file:
        file.write(b'\0\0\n\xff\n[]\n{}\n{"step": "1"}\n\n')
    with RunLog(tmp_path, first_step=2) as log:
        log.step(metrics_of(2, vlc=1.0))
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 2]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log._lines.close()
    log._lines = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 (the log closes it)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: No space left on device; the same command goes on"), log:
        log.step(metrics_of(0, vlc=1.0))
