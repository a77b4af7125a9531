"""What `mplug2 jobs summary` tells of a run: its starts, and where its time went."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launchers.jobs import NOT_SUBMITTED, described
from launchers.launch_folder import Launch, launch_folders, read_launch, record_folder
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.job_events import TRAINING, Event, read_events
from megatron_mplug2.observability.last_step import last_train_step
from megatron_mplug2.observability.run_history import HISTORY_NAME, last_sign, read_history
from megatron_mplug2.observability.time_account import Account, Part, account
from megatron_mplug2.wording import counted

MOST_LETTERS = 60
"""Of a reason in the table."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    run_dir: Path
    steps: int
    """That the run has done, by its record."""
    account: Account
    others: tuple[str, ...]
    """A line about each launch in the folder that is no training of it, such as an evaluation."""

    def record(self) -> dict[str, Any]:
        """For JSON: seconds, and seconds since 1970."""
        told = self.account
        return {
            "run": str(self.run_dir),
            "steps": self.steps,
            "wall_s": round(told.wall_s, 3),
            "since_begin_s": round(told.since_begin_s, 3),
            "effective_training_time": None if told.effective is None else round(told.effective, 4),
            "lost_steps": told.lost_steps,
            "seconds": {part.value: round(seconds, 3) for part, seconds in told.seconds.items()},
            "starts": [asdict(start) for start in told.starts],
        }


def summaries(place: Path) -> list[Summary]:
    """Of a run's folder, or of all runs directly in a folder. Raises UserError where there is none that has begun."""
    found = [summary for folder in (place, *sorted(place.glob("*"))) if (summary := summary_of(folder)) is not None]
    if not found:
        raise UserError(f"no run in {place} has begun: name the folder of a run, or of runs")
    return found


def summary_of(run_dir: Path) -> Summary | None:
    """None where nothing was started in a folder."""
    launches = {folder: read_launch(folder) for folder in launch_folders(run_dir)}
    if not launches and not (run_dir / HISTORY_NAME).exists():
        return None
    # A run's folder has its evaluations too, which are no starts of it.
    training = {folder: launched for folder, launched in launches.items() if launched.command[0] in TRAINING}
    others = sorted(launches.keys() - training.keys())
    record = next((record_folder(run_dir, launched) for launched in training.values()), run_dir)
    history, _ = read_history(record)
    events = [event for folder in (training if history or training else launches) for event in read_events(folder)]
    last = last_train_step(record)
    return Summary(
        run_dir=run_dir,
        steps=0 if last is None else last + 1,
        account=account(history, events, last_sign=last_sign(record)),
        others=tuple(_other(launches[folder], read_events(folder)) for folder in others),
    )


def _other(launched: Launch, events: Sequence[Event]) -> str:
    return f"mplug2 {shlex.join(launched.command)}: {described(events[-1]) if events else NOT_SUBMITTED}"


def lines_of(summary: Summary) -> list[str]:
    """The same for a person."""
    told = summary.account
    if not told.starts:
        return [f"{summary.run_dir}: not started yet", *summary.others]
    share = "?" if told.effective is None else f"{100 * told.effective:.1f} %"
    head = f"{summary.run_dir}: step {summary.steps}, {counted(len(told.starts), 'start')} in {told.since_begin_s:.1f} s, "
    rows = [("start", "begun", "steps", "lost", "lasted s", "ended")]
    for number, start in enumerate(told.starts):
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start.begin))
        steps = f"{start.step}-{start.reached}"
        rows.append((str(number), begun, steps, str(start.lost_steps), f"{start.end - start.begin:.1f}", start.reason[:MOST_LETTERS]))
    shares = [("", "s", "%"), *((part.value, f"{seconds:.1f}", _percent(seconds, told.wall_s)) for part, seconds in _told(told))]
    return [
        head + f"effective training time {share}, {counted(told.lost_steps, 'step')} lost",
        *_table(rows, left=(1, 5)),
        *_table(shares, left=(0,)),
        *summary.others,
    ]


def _told(account: Account) -> list[tuple[Part, float]]:
    return [(part, seconds) for part, seconds in account.seconds.items() if seconds]


def _percent(seconds: float, of: float) -> str:
    return f"{100 * seconds / of:.1f}" if of else ""


def _table(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Columns of equal width, numbers to the right; `left` are those of words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [
        [cell.ljust(width) if place in left else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    return [f"  {'  '.join(row)}".rstrip() for row in cells]
