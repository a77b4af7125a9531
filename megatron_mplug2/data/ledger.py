"""`quarantine.jsonl` in the run folder: every substitution of a run, one JSON object a line."""

import json
import os
from pathlib import Path

from pydantic import ValidationError

from megatron_mplug2.data.substitution import Substitution, Substitutions

LEDGER = "quarantine.jsonl"


class Ledger:
    """Writes each event once, also over a resume. Only one rank of a run holds it."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / LEDGER
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        self._gap = "\n" if text and not text.endswith("\n") else ""
        events = (_event(line) for line in text.splitlines())
        self._events = {event.event: event for event in events if event}

    @property
    def events(self) -> Substitutions:
        return tuple(self._events.values())

    def write(self, found: Substitutions) -> None:
        """Adds the events that are new. A kill leaves whole lines, except perhaps the last, which then counts for nothing."""
        new = {substitution.event: substitution for substitution in found if substitution.event not in self._events}
        if not new:
            return
        self._events |= new
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._gap + "".join(json.dumps(one.model_dump(mode="json"), ensure_ascii=False) + "\n" for one in new.values()))
            file.flush()
            os.fsync(file.fileno())
        self._gap = ""


def _event(line: str) -> Substitution | None:
    try:
        return Substitution.model_validate_json(line)
    except ValidationError:  # torn by a kill
        return None
