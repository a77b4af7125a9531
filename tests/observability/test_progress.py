"""The line that the person sees."""

import io
import re

import pytest
from rich.console import Console

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.observability.progress import TrainingProgress
from tests.observability.samples import metrics_of


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with TrainingProgress(total_steps=100, console=Console(file=out)) as progress:
        for step in range(100):
            progress.update(metrics_of(step, lm=2.0, vlc=3.5, substituted=step // 50))
            if step == 50:
                progress.note("checkpoint of step 51 [saved]")
    first, note, last = out.getvalue().splitlines()
    assert re.fullmatch(r"step 1/100 (\?|\d+:\d\d:\d\d) left \| 93.2 samples/s \| video_text lm 2.000 vlc 3.500", first)
    assert note == "checkpoint of step 51 [saved]"
    assert last.startswith("step 100/100 0:00:00 left |"), "the last step is always told"
    assert last.endswith("vlc 3.500 | bad samples: 1")


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_mplug2.observability.progress.PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with TrainingProgress(total_steps=10, first_step=4, console=Console(file=out)) as progress:
        for step in (4, 5, 6):
            progress.update(metrics_of(step))
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["5/10", "6/10", "7/10"]


def test_the_latest_loss_of_every_objective_is_shown() -> None:
    out = io.StringIO()
    with TrainingProgress(total_steps=3, console=Console(file=out, force_terminal=True, width=140)) as progress:
        progress.update(metrics_of(0, vlc=3.0, vlm=0.6))
        progress.update(metrics_of(1, Task.TEXT, mlm=7.0))
        progress.update(metrics_of(2, vlc=2.0, vlm=0.5))
    final = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).split("\r")[-1]
    assert "3/3" in final and "video_text mlm 7.000 vlc 2.000 vlm 0.500" in final
