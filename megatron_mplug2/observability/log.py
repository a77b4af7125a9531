"""The run's record: one JSON line a logged step in `metrics.jsonl`, and the same for TensorBoard. Rank 0 writes it."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.metrics import StepMetrics, UseMetrics

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"

_NAMED = {"loss": "losses", "grad_norm": "module_grad_norms", "weight_norm": "module_weight_norms"}
"""Beginnings of names of figures -> fields of a step's metrics that hold several by name."""


class RunLog:
    """Writes and flushes line by line. Opened at `first_step`, it forgets what an earlier run wrote of that step and later ones."""

    def __init__(self, run_dir: Path, first_step: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_NAME
        _keep_before(self._path, first_step)
        self._lines = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / TENSORBOARD_NAME), purge_step=first_step)

    def step(self, metrics: StepMetrics) -> None:
        values = asdict(metrics)
        bad = {"bad": reason} if (reason := values.pop("bad")) else {}
        named = {f"{kind}/{name}": value for kind, field in _NAMED.items() for name, value in values.pop(field).items()}
        self._write({"kind": "train", **values, **bad, **named})
        for name, value in named.items():
            self._board.add_scalar(f"{metrics.task}/{name}" if name.startswith("loss/") else name, value, metrics.step)
        for name in ("grad_norm", "lr", "temperature", "samples_per_s", "data_wait_s", "step_s"):
            self._board.add_scalar(f"training/{name}", values[name], metrics.step)

    def use(self, metrics: UseMetrics) -> None:
        values = asdict(metrics)
        self._write({"kind": "use", **values})
        for name in ("mfu", "tflops", "data_wait_share", "memory_gb"):
            if values[name] is not None:
                self._board.add_scalar(f"use/{name}", values[name], metrics.step)
        for section, time in metrics.sections.items():
            self._board.add_scalar(f"seconds/{section.tag}/median", time.median, metrics.step)
            self._board.add_scalar(f"seconds/{section.tag}/slowest", time.slowest, metrics.step)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Named figures of a validation that follows a step, such as `image_text/loss/vlc`."""
        self._write({"kind": "validation", "step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(f"validation/{name}", value, step)

    def close(self) -> None:
        with suppress(OSError):  # a line that could not be written, which was told
            self._lines.close()
        self._board.close()

    def _write(self, values: Mapping[str, Any]) -> None:
        line = json.dumps({name: _finite(value) for name, value in values.items()}, allow_nan=False)
        try:
            self._lines.write(f"{line}\n")
            self._lines.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}; the same command goes on from the last checkpoint") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def last_train_step(run_dir: Path) -> int | None:
    """Index of the last step that a run logged; None where it logged none."""
    path = run_dir / METRICS_NAME
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((step for line in reversed(lines) if (step := _step_of(line)) is not None), None)


def _step_of(line: str) -> int | None:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def _keep_before(path: Path, step: int) -> None:
    """Drops the lines of a step and later ones, and what is no line of a step: cut short by a kill, or spoilt by a power cut."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and (found := _step_of(line)) is not None and found < step]
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)
