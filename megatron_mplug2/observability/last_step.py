"""How far a run's record goes. Apart from what writes it, which imports torch."""

import json
from pathlib import Path

METRICS_NAME = "metrics.jsonl"


def last_train_step(run_dir: Path) -> int | None:
    """Index of the last step that a run logged; None where it logged none."""
    path = run_dir / METRICS_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((step for line in reversed(lines) if (step := step_of(line)) is not None), None)


def step_of(line: str) -> int | None:
    """That a line of the record is about; None for what is no line of a step."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None
