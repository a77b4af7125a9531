"""The `mplug2 data` commands."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.splits import Split
from megatron_mplug2.errors import UserError

if TYPE_CHECKING:
    from data_tools.stages.listing_stage import Corpus, ListingStage
    from data_tools.stages.stage import Effort

SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="Layout of the corpus; `mplug2 data sources` lists them")]
Annotation = Annotated[Path, typer.Argument(metavar="ANNOTATION", help="Its file or folder; `mplug2 data sources SOURCE` says which")]
Media = Annotated[Path, typer.Option(metavar="DIR", help="Folder of its pictures or clips; corpora of text need none")]
OfSplit = Annotated[Split, typer.Option("--split", help="What the file is, where it does not say so itself")]
StageOut = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; one that was begun is gone on with")]
PartOption = Annotated[str, typer.Option("--part", metavar="I/N", help="Do every N-th piece only, so that N processes share the work")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes; by default one a core", show_default=False)]
CORES = len(os.sched_getaffinity(0))

app = typer.Typer(no_args_is_help=True, help="Make, shard and check corpora.")

_TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended, as shells write it."""


@app.callback()
def data() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that what is half-written is removed, as after a Ctrl-C


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder to write")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another corpus")] = 0,
) -> None:
    """Write the demo corpus: pictures, clips and texts of coloured shapes that move."""
    from data_tools.demo.make import make_demo

    make_demo(folder, seed)
    typer.echo(f"wrote {folder}; next: mplug2 data shard demo {folder} --media {folder} --out OUT")


@app.command()
def probe(
    source: SourceName,
    annotation: Annotation,
    out: StageOut,
    media: Media = Path(),
    split: OfSplit = Split.TRAIN,
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Look into every sample of a corpus and write a listing: codec, size, length, what cannot be used and why."""
    from data_tools.stages.listing_stage import ListingStage
    from data_tools.stages.probe import look_into

    stage = ListingStage(name="probe", corpus=_corpus(source, annotation, media, split), settings={}, look=look_into)
    _run_listing(stage, out, _effort(part, workers))


@app.command()
def shard(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Layout of the corpus; `mplug2 data sources` lists them")],
    annotation: Annotated[Path, typer.Argument(metavar="ANNOTATION", help="Its file or folder; `mplug2 data sources SOURCE` says which")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder to write")],
    media: Annotated[Path, typer.Option(metavar="DIR", help="Folder of its pictures or clips; corpora of text need none")] = Path(),
    split: Annotated[Split, typer.Option(help="What the file is, where it does not say so itself")] = Split.TRAIN,
) -> None:
    """Pack a corpus into shards that training reads: OUT/SPLIT/STREAM."""
    from data_tools.shard import REPORT
    from data_tools.shard import shard as write_shards
    from data_tools.sources.registry import source as named

    report = write_shards(named(source, split), annotation, media, out)
    for name, count in report.written.items():
        typer.echo(f"{name}: {count} samples")
    for fault, count in report.faults.items():
        typer.echo(f"left out: {count} x {fault} (see {out / REPORT})")


@app.command()
def sources(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one's layout", show_default=False)] = None,
) -> None:
    """List the layouts of corpora that `shard` reads, or show one."""
    from data_tools.sources.registry import describe, summaries

    if name is not None:
        typer.echo(describe(name))
        return
    for group, members in summaries().items():
        typer.echo(f"{group}:")
        for each, summary in members.items():
            typer.echo(f"  {each}: {summary}")


@app.command()
def verify(place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of shards, with all below it")]) -> None:
    """Check every byte of shards against their manifests."""
    from data_tools.verify import stream_folders
    from data_tools.verify import verify as find_faults

    faults = find_faults(place)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise UserError(f"{place} has {len(faults)} faults (listed above): copy the named files anew, or shard the corpus again")
    typer.echo(f"{place}: {len(stream_folders(place))} streams, all bytes as written")


@app.command()
def vocab(
    places: Annotated[list[Path], typer.Argument(metavar="DIR_OR_FILE...", help="Folders of shards, or text files")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Vocabulary to write, one piece a line")],
    size: Annotated[int, typer.Option(min=32, help="Most pieces")] = 30522,
) -> None:
    """Train a WordPiece vocabulary on a corpus."""
    from data_tools.vocab import train_vocab

    typer.echo(f"{out}: {train_vocab(places, out, size)} pieces")


def _corpus(source: str, annotation: Path, media: Path, split: Split) -> "Corpus":
    from data_tools.stages.listing_stage import Corpus

    return Corpus(source=source, annotation=annotation, media=media, split=split)


def _effort(part: str, workers: int) -> "Effort":
    from data_tools.stages.part import Part
    from data_tools.stages.stage import Effort

    return Effort(part=Part.parse(part), workers=workers)


def _run_listing(stage: "ListingStage", out: Path, effort: "Effort") -> None:
    """Runs it and tells the counts."""
    from data_tools.stages.listing import ListingHeader
    from data_tools.stages.stage import run_stage

    if left := run_stage(stage, out, effort):
        typer.echo(f"part {effort.part} of {out} is done; {left} chunks of other parts are not there yet")
        return
    header = ListingHeader.load(out)
    for name, count in header.kept.items():
        typer.echo(f"{name}: {count} samples")
    for reason, count in header.left_out.items():
        typer.echo(f"left out: {count} x {reason}")
    if not header.kept:
        raise UserError(f"no usable sample (see {out}): check the annotation and --media")
