"""The sum of a run over all its starts, in `run_summary.json`, and what it is now: starts that fail afterwards write nothing there."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_mplug2.observability.job_events import training_events
from megatron_mplug2.observability.run_history import Event, last_sign, read_history, replace_text
from megatron_mplug2.observability.time_account import Account, account
from megatron_mplug2.wording import counted

SUMMARY_NAME = "run_summary.json"


def write_summary(run_dir: Path, *, step: int, steps: int, productive_s: float, steps_left_out: int) -> dict[str, Any]:
    """Up to the run's end, or to now while it goes on; returns it too. `steps`: of the schedule. `productive_s`: of the steps that made the
    weights, over all starts."""
    history, _ = read_history(run_dir)
    last = history[-1] if history else {}
    told: dict[str, Any] = {"step": step, "steps": steps, "productive_s": round(productive_s, 3), "steps_left_out": steps_left_out}
    told["end"] = last["reason"] if last.get("event") == Event.END else None
    summary = told | _over_all_starts(_account(run_dir, time.time()), productive_s)
    replace_text(run_dir / SUMMARY_NAME, json.dumps(summary, indent=1) + "\n")
    return summary


def read_summary(run_dir: Path) -> dict[str, Any]:
    """What was written last, with the time and the starts that have come since; empty where there is none that can be read."""
    try:
        written = json.loads((run_dir / SUMMARY_NAME).read_text(encoding="utf-8"))
        return dict(written) | _over_all_starts(_account(run_dir, last_sign(run_dir)), float(written["productive_s"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}


def _account(run_dir: Path, until: float) -> Account:
    history, _ = read_history(run_dir)
    return account(history, training_events(run_dir, history), last_sign=until)


def _over_all_starts(told: Account, productive_s: float) -> dict[str, Any]:
    wall_s = max(told.since_begin_s, productive_s)
    return {
        "starts": len(told.starts),
        "wall_s": round(wall_s, 3),
        "effective_training_time": round(productive_s / wall_s, 4) if wall_s else None,
        "lost_steps": told.lost_steps,
    }


def summary_line(summary: Mapping[str, Any]) -> str:
    """For the person at the terminal."""
    share = summary["effective_training_time"]
    shown = "?" if share is None else f"{100 * share:.1f} %"
    return (
        f"effective training time {shown} ({summary['productive_s']:.1f} s of steps in {summary['wall_s']:.1f} s since the first start; "
        f"{counted(summary['starts'], 'start')}, {counted(summary['lost_steps'], 'step')} lost, {summary['steps_left_out']} left out)"
    )
