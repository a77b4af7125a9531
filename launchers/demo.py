"""The main job: from nothing to a tiny mPLUG-2 that tells coloured shapes and their motion, on two CPU cores or a GPU.

Corpus, shards and vocabulary, an evaluation before training, pretraining, an evaluation after it, a report. Every part that is there
already is kept, so an interrupted demo goes on and a second one is quick.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from launchers.demo_corpus import prepare_corpus
from launchers.demo_report import clips_to_show, results_table, write_contact_sheet
from launchers.local import launch
from launchers.ranks import Entry
from megatron_mplug2.checkpoint import commit
from megatron_mplug2.checkpoint.store import checkpoint_folder
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import ExitCode
from megatron_mplug2.evaluation.evaluate import (
    PREDICTIONS_NAME,
    RESULTS_NAME,
    UNTRAINED_NAME,
    UNTRAINED_PREDICTIONS_NAME,
    config_digest,
    evaluate,
    evaluate_untrained,
)
from megatron_mplug2.observability.report.page import REPORT_NAME, write_run_report

SUMMARY_NAME, SHEET_NAME, SPENT_NAME = "summary.json", "report.png", "seconds.json"
MEASURED = ("retrieval", "qa", "caption")


def run_demo(config_path: Path, overrides: list[str], pretrain: Entry) -> None:
    """Runs whatever is still to be done of the demo, and writes `report.png`, `summary.json` and `report.html` into the run folder.

    `pretrain` is the work of a training rank, which lies above this room.

    Raises:
        UserError: as `load_config`, the tools of the corpus, `pretrain` and `evaluate` do.
        SystemExit: training was interrupted; the same command goes on.
    """
    torch.set_num_threads(1)  # ranks are forked from here: no thread may have been started
    one_gpu = ["layout.data=1"] if torch.cuda.device_count() == 1 else []
    config = load_config(config_path, [*one_gpu, *overrides])
    _Demo(config, pretrain, Console(stderr=True, highlight=False)).run()


class _Demo:
    def __init__(self, config: RunConfig, pretrain: Entry, console: Console) -> None:
        self._config, self._pretrain, self._console = config, pretrain, console
        self._run_dir = config.run_dir
        self._spent = _Spent(config.run_dir / SPENT_NAME)

    def run(self) -> None:
        if prepare_corpus(self._config, self._note):
            for name in (RESULTS_NAME, UNTRAINED_NAME):
                (self._run_dir / name).unlink(missing_ok=True)
            self._spent.keep()
        untrained = self._evaluation(UNTRAINED_NAME, 0, evaluate_untrained, "the untrained model")
        self._train()
        trained = self._evaluation(RESULTS_NAME, self._config.steps, evaluate, "the trained model")
        self._report(trained, untrained)

    def _evaluation(self, name: str, step: int, entry: Callable[[RunConfig], None], what: str) -> Mapping[str, Any]:
        # Evaluation runs whole models, so stages of a pipeline stay out of it.
        layout = self._config.layout.model_copy(update={"pipeline": 1, "stage_starts": None})
        config = self._config.model_copy(update={"layout": layout})
        found = _read(self._run_dir / name)
        if found.get("step") == step and found.get("config") == config_digest(config):
            self._note(f"evaluation of {what}: {self._run_dir / name} is there")
            return found
        self._note(f"evaluation of {what}")
        launch(config, entry)
        self._spent.keep()
        return _read(self._run_dir / name)

    def _train(self) -> None:
        folder, steps = checkpoint_folder(self._run_dir), self._config.steps
        before = commit.latest(folder)
        if before is None:
            self._note(f"pretraining: {steps} steps")
        else:
            self._note(f"pretraining: {folder} has a checkpoint after step {before} of {steps}, which is taken up")
        launch(self._config, self._pretrain)
        after = commit.latest(folder)
        if after != before:
            self._spent.keep()
        if after != steps:
            self._note(f"interrupted after step {after or 0} of {steps}: the same command goes on from there")
            raise SystemExit(ExitCode.STOPPED)

    def _report(self, trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> None:
        clips = clips_to_show(self._run_dir / PREDICTIONS_NAME, self._run_dir / UNTRAINED_PREDICTIONS_NAME)
        write_contact_sheet(self._config, clips, self._run_dir / SHEET_NAME)
        minutes = self._spent.seconds / 60
        summary = {key: trained[key] for key in MEASURED}
        summary |= {"untrained": {key: untrained[key] for key in MEASURED}}
        summary |= {"minutes": round(minutes, 2), "layout": self._config.layout.model_dump(mode="json")}
        _write(self._run_dir / SUMMARY_NAME, summary)
        out = Console(highlight=False)
        out.print(results_table(trained, untrained))
        for clip in clips:
            out.print(f"\ntest clip {clip.index}", *clip.lines, sep="\n", markup=False, soft_wrap=True)
        out.print(
            f"\n{minutes:.1f} minutes of work. Clips: {self._run_dir / SHEET_NAME}, figures: {self._run_dir / SUMMARY_NAME}", soft_wrap=True
        )
        page = self._run_dir / REPORT_NAME
        write_run_report(self._run_dir, page)
        out.print(f"The whole run on one page: {page}", soft_wrap=True)

    def _note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


class _Spent:
    """Wall time of the parts that were done, over all the calls that it took."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = float(_read(path).get("seconds", 0.0))
        self._counted = time.monotonic()

    def keep(self) -> None:
        """Counts the time since the last call, or since the start; not called where nothing was done."""
        now = time.monotonic()
        self.seconds += now - self._counted
        self._counted = now
        _write(self._path, {"seconds": self.seconds})


def _read(path: Path) -> dict[str, Any]:
    """Empty where the file is missing or no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
