"""What a stage's command tells a person at its end: samples by split and stream, those that are left out and why, what to do next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import typer

from data_tools.sample import Reason
from data_tools.stages.listing import LISTING, ListingHeader, drop_unusable
from data_tools.stages.listing_stage import LISTING_SOURCE, Corpus, ListingStage
from data_tools.stages.plan import Packing
from data_tools.stages.shard import REPORT, Report, listing_of, shard
from data_tools.stages.stage import Effort, Piece, Stage, run_stage
from megatron_mplug2.errors import UserError

MENDABLE = (Reason.MISSING, Reason.UNREADABLE)
"""What a person can put right, after which a finished folder is made anew."""


class Lister(Stage[Piece], Protocol[Piece]):
    """A stage that writes a listing."""

    @property
    def advice(self) -> str:
        """What to do where no sample is usable."""


def run_listing(stage: Lister[Piece], out: Path, effort: Effort) -> None:
    """Runs a stage that writes a listing. One that had no usable sample stays to be looked at, until the command is run again.

    Raises UserError as `run_stage` does, and where no sample is usable.
    """
    if effort.part.whole:  # another part may be at work
        drop_unusable(out)
    finished = (out / LISTING).exists()
    if left := run_stage(stage, out, effort):
        typer.echo(f"part {effort.part} of {out} is done; {left} chunks of other parts are not there yet")
        return
    header = ListingHeader.load(out)
    if finished:
        _tell_finished(out, header.left_out, stage.corpus if isinstance(stage, ListingStage) else None)
    _tell_samples(header.kept, header.without_caption)
    for reason, count in header.left_out.items():
        typer.echo(f"left out: {count} x {reason}")
    if not header.kept:
        again = "run the command again" if effort.part.whole else f"delete {out} and run all parts again"
        raise UserError(f"no usable sample (see {out}): {stage.advice}, then {again}")


def run_shard(corpus: Corpus, packing: Packing, out: Path, effort: Effort) -> None:
    """Packs a corpus into shards. Raises UserError as `shard` does."""
    finished = (out / REPORT).exists()
    if left := shard(corpus, out, packing, effort):
        typer.echo(f"part {effort.part} of {out} is done; {left} tars of other parts are not there yet")
        return
    report = Report.load(out)
    if finished:
        _tell_finished(out, report.left_out, corpus)
    _tell_samples(report.written, report.without_caption)
    for reason, count in report.left_out.items():
        typer.echo(f"left out: {count} x {reason} (see {listing_of(corpus, out)})")


def _tell_finished(out: Path, left_out: Mapping[str, int], corpus: Corpus | None) -> None:
    # What an earlier stage left out is for that to take in.
    mendable = corpus is not None and corpus.source != LISTING_SOURCE and any(reason in left_out for reason in MENDABLE)
    mend = f"; to take in media that were missing or not readable, delete {out} and run it again" if mendable else ""
    typer.echo(f"{out} was finished before: nothing is done again{mend}")


def _tell_samples(kept: Mapping[str, int], without_caption: Mapping[str, int]) -> None:
    """By split and stream."""
    for name, count in kept.items():
        typer.echo(f"{name}: {count} samples")
    for name, count in without_caption.items():
        typer.echo(f"{name}: {count} x no caption; finetuning takes these, pretraining puts others in their place")
