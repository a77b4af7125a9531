"""Shards of small corpora, in one call."""

from pathlib import Path

from data_tools.splits import Split
from data_tools.stages.listing_stage import Corpus
from data_tools.stages.plan import Packing
from data_tools.stages.shard import Report, shard
from data_tools.stages.stage import Effort
from megatron_mplug2.data.manifest import Manifest


def sharded(source: str, annotation: Path, media: Path, out: Path, split: Split = Split.TRAIN, packing: Packing | None = None) -> Report:
    corpus = Corpus(source=source, annotation=annotation, media=media, split=split)
    assert shard(corpus, out, packing or Packing(), Effort()) == 0
    return Report.load(out)


def numbers_by_key(manifest: Manifest) -> dict[str, int]:
    """Where each sample stands, by its name in its corpus."""
    return {manifest.entry(number).key.partition("-")[2]: number for number in range(len(manifest))}
