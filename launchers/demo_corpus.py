"""The demo's corpus, from nothing to shards and a vocabulary. What is there and whole is kept, what is missing or damaged is made anew."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from data_tools.demo.make import make_demo
from data_tools.splits import Split
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort
from data_tools.tokenizer import train_tokenizer
from data_tools.verify import verify
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import MANIFEST
from megatron_mplug2.errors import UserError

SEED = 0


def prepare_corpus(config: RunConfig, note: Callable[[str], None]) -> bool:
    """Makes corpus, shards and vocabulary beside `data.vocab`; returns whether shards or vocabulary are new.

    Raises UserError where the config takes its shards from elsewhere, or a folder cannot be written.
    """
    folder = config.data.vocab.parent
    corpus, shards, vocab = folder / "corpus", folder / "shards", config.data.vocab
    _check_folders(config, shards)
    for leftover in folder.glob("*.partial*"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if shards.exists() and (fault := _fault(config, shards)):
        note(f"shards: {fault}; they are made anew")
        shutil.rmtree(shards)
    if shards.exists() and vocab.exists():
        note(f"corpus: the shards in {shards} are there and whole")
        return False
    if not shards.exists():
        if not corpus.exists():
            note(f"corpus: writing pictures, clips and texts to {corpus}")
            make_demo(corpus, SEED)
        note(f"corpus: packing shards into {shards}")
        demo = Corpus(source="demo", annotation=corpus, media=corpus, split=Split.TRAIN)
        shard(demo, shards, Packing(), Effort(workers=len(os.sched_getaffinity(0))))
    vocab.unlink(missing_ok=True)  # it belongs to the shards
    pieces = train_tokenizer([shards / Split.TRAIN], vocab, size=config.model.text.vocab_size)
    note(f"corpus: {pieces} word pieces in {vocab}")
    return True


def _check_folders(config: RunConfig, shards: Path) -> None:
    for split in Split:
        for task in Task:
            for dataset in getattr(config.data, split).of(task):
                if Path(dataset.folder) != shards / split / task:
                    raise UserError(f"data.{split}.{task} names {dataset.folder}: the demo's own corpus lies in {shards / split / task}")


def _fault(config: RunConfig, shards: Path) -> str | None:
    """The first thing that is wrong."""
    for split in Split:
        for task in Task:
            folders = [Path(dataset.folder) for dataset in getattr(config.data, split).of(task)]
            missing = [folder for folder in folders if not (folder / MANIFEST).exists()]
            if missing:
                return f"{missing[0]} is missing"
    return next(iter(verify(shards)), None)
