"""Short runs of finetuning on forked ranks, and what they write down."""

import json
from collections.abc import Sequence
from pathlib import Path

from launchers.ranks import Entry
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.downstream.finetune import finetune
from tests.config.test_finetune_configs import FOLDER
from tests.training.runs import started

PATIENCE_S = 280
"""For a whole run."""


def config_of(name: str, corpus: Path, run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A demo config of finetuning on this corpus: from nothing, 8 steps, every line logged."""
    streams = [f"data.{split}.video_text=[{corpus}/shards/{split}/video_text]" for split in ("train", "validation", "test")]
    nothing = [f"data.{split}.{stream}=[]" for split in ("train", "validation", "test") for stream in ("text", "image_text")]
    place = [f"data.vocab={corpus}/vocab.txt", f"run_dir={run_dir}", "initialise_from=null"]
    small = ["training.global_batch=8", "training.microbatch=2", "schedule.0.steps=8", "optimizer.warmup_steps=2"]
    often = ["training.log_every=1", "training.checkpoint_every=4", "training.validate_every=4", "training.validation_batches=2"]
    return load_config(FOLDER / f"{name}.yaml", [*streams, *nothing, *place, *small, *often, *overrides])


def run(config: RunConfig, entry: Entry = finetune) -> None:
    process = started(config, entry)
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def lines(config: RunConfig, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]
