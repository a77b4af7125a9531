"""What lies in a run's folder, as far as it can be read: the run may be going on, killed, of an older version, or damaged in places."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from megatron_mplug2.checkpoint import newest, store
from megatron_mplug2.checkpoint.commit_file import COMMIT
from megatron_mplug2.checkpoint.inspection import Contents, inspect
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.load import RESOLVED_NAME, parse_resolved
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.ledger import LEDGER
from megatron_mplug2.data.substitution import Substitution
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.evaluate import RESULTS_NAME, SAMPLES_NAME, UNTRAINED_NAME, UNTRAINED_SAMPLES_NAME, FamilyNames
from megatron_mplug2.evaluation.samples import ShownSample
from megatron_mplug2.observability.last_step import METRICS_NAME
from megatron_mplug2.observability.report.metrics_file import Metrics, read_metrics
from megatron_mplug2.observability.run_history import HISTORY_NAME, read_history
from megatron_mplug2.observability.run_summary import read_summary

_MOST_DIGITS = 18
"""Of a whole number in a record."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that is there and has a COMMIT."""

    step: int
    size: int
    """Bytes."""
    at: float
    """When it was completed; seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation left; empty where there was none."""

    results: Mapping[str, Any]
    samples: tuple[ShownSample, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    folder: Path
    config: RunConfig | None
    """None where this version cannot read it."""
    config_text: str
    metrics: Metrics
    events: tuple[Mapping[str, Any], ...]
    """Of its history, in order of time."""
    summary: Mapping[str, Any]
    substitutions: tuple[Substitution, ...]
    checkpoints: tuple[Checkpoint, ...]
    """By rising step."""
    contents: Contents | None
    """Of the newest checkpoint."""
    trained: Evaluated
    untrained: Evaluated
    families: Mapping[Family, Mapping[str, Any]]
    """Results of the downstream families that it was evaluated on."""
    looked_at: float
    last_sign: float
    """When any of its records was written last."""
    skipped: Mapping[str, int]
    """File -> lines of it that could not be read."""


def read_run(folder: Path) -> Run:
    """Raises UserError where the folder is no run's, or cannot be read."""
    names = (RESOLVED_NAME, METRICS_NAME, HISTORY_NAME)
    try:
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{folder} is no run's folder: it has no {', '.join(names[:-1])} or {names[-1]}")
        return _read(folder, max((folder / name).stat().st_mtime for name in names if (folder / name).is_file()))
    except OSError as error:
        raise UserError(f"cannot read {error.filename or folder}: {error.strerror}") from None


def _read(folder: Path, last_sign: float) -> Run:
    path = folder / RESOLVED_NAME
    config_text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    config = None
    with suppress(UserError):
        config = parse_resolved(config_text, str(path)) if config_text else None
    metrics = read_metrics(folder)
    events, spoilt = read_history(folder)
    skipped = Counter({METRICS_NAME: metrics.skipped, HISTORY_NAME: spoilt})
    return Run(
        folder=folder,
        config=config,
        config_text=config_text,
        metrics=metrics,
        events=tuple(sorted(events, key=lambda event: event["at"])),
        summary=read_summary(folder),
        substitutions=_lines(folder / LEDGER, Substitution, skipped),
        checkpoints=_checkpoints(folder),
        contents=_contents(folder),
        trained=Evaluated(results=_object(folder / RESULTS_NAME), samples=_lines(folder / SAMPLES_NAME, ShownSample, skipped)),
        untrained=Evaluated(
            results=_object(folder / UNTRAINED_NAME), samples=_lines(folder / UNTRAINED_SAMPLES_NAME, ShownSample, skipped)
        ),
        families={family: found for family in Family if (found := _object(folder / FamilyNames.of(family, trained=True).results))},
        looked_at=time.time(),
        last_sign=last_sign,
        skipped={name: count for name, count in skipped.items() if count},
    )


def _checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    found = []
    with suppress(UserError, OSError):  # of a newer format, or not to be read
        for candidate in newest.listing(store.checkpoint_folder(folder)).complete:
            assert candidate.content is not None
            size = sum(file.size for file in candidate.content.files.values())
            with suppress(OSError):  # removed just now by the run
                found.append(Checkpoint(step=candidate.step, size=size, at=(candidate.path / COMMIT).stat().st_mtime))
    return tuple(sorted(found, key=lambda one: one.step))


def _contents(folder: Path) -> Contents | None:
    """Of the newest checkpoint whose small files are good."""
    with suppress(UserError, OSError):
        for candidate in newest.listing(store.checkpoint_folder(folder)).complete:
            with suppress(UserError, OSError):  # damaged, or removed just now by the run
                return inspect(candidate.path)
    return None


def _object(path: Path) -> Mapping[str, Any]:
    """Empty where the file is missing or no JSON object."""
    try:
        found = json.loads(path.read_bytes(), parse_int=_whole)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(digits: str) -> int | float:
    """JSON has integers of any length; one too long for a float is infinite."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _lines(path: Path, kind: type[M], skipped: Counter[str]) -> tuple[M, ...]:
    """Those that can be read; the others are counted."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError:
            skipped[path.name] += 1
    return tuple(found)
