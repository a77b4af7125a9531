"""The `mplug2 data` commands."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.demo.kind import DemoKind
from data_tools.splits import Split
from data_tools.stages.choices import MOST_LOOK_DISTANCE, Duplicates, Encoder
from data_tools.tokenizer_kind import TokenizerKind
from megatron_mplug2.errors import UserError

if TYPE_CHECKING:
    from data_tools.stages.listing_stage import Corpus
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
    kind: Annotated[DemoKind, typer.Option(help="Of the files")] = DemoKind.DEMO,
) -> None:
    """Write the demo corpus: pictures, clips and texts of coloured shapes that move. Or phrases about pictures, as RefCOCO has them."""
    if kind is DemoKind.REFCOCO:
        from data_tools.demo.refcoco import REFS, make_refcoco

        make_refcoco(folder, seed)
        typer.echo(f"wrote {folder}; next: mplug2 data shard refcoco '{folder / REFS}' --media {folder} --out OUT")
        return
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
    from data_tools.outcome import run_listing
    from data_tools.stages.listing_stage import ListingStage
    from data_tools.stages.probe import look_into

    stage = ListingStage(name="probe", corpus=_corpus(source, annotation, media, split), settings={}, look=look_into)
    run_listing(stage, out, _effort(part, workers))


@app.command()
def transcode(
    source: SourceName,
    annotation: Annotation,
    out: StageOut,
    media: Media = Path(),
    split: OfSplit = Split.TRAIN,
    short_side: Annotated[
        int, typer.Option(min=16, metavar="PIXELS", help="Smaller pictures stay as they are, smaller clips keep about their size")
    ] = 256,
    fps: Annotated[float | None, typer.Option(min=0.1, max=240, help="Frames a second; by default each clip's own average")] = None,
    keyframe_every: Annotated[int, typer.Option(min=1, metavar="FRAMES", help="The fewer, the quicker to read and the larger")] = 8,
    encoder: Annotated[Encoder, typer.Option(help="NVENC needs an NVIDIA GPU")] = Encoder.X264,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Quality in the encoder's scale: less is better and larger")] = 23,
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Encode clips and large pictures anew, small and quick to read, and write a listing of them: OUT/media."""
    from data_tools.outcome import run_listing
    from data_tools.stages.encode import Recipe
    from data_tools.stages.transcode import SAMPLE_TIMEOUT_S, transcode_stage

    recipe = Recipe(short_side=short_side, fps=fps, keyframe_every=keyframe_every, encoder=encoder, crf=crf)
    stage = transcode_stage(_corpus(source, annotation, media, split), recipe)
    run_listing(stage, out, replace(_effort(part, workers), sample_timeout_s=SAMPLE_TIMEOUT_S))


@app.command("filter")
def filter_(
    source: SourceName,
    annotation: Annotation,
    out: StageOut,
    min_words: Annotated[int | None, typer.Option(min=1, help="Shorter captions are dropped")] = None,
    max_words: Annotated[int | None, typer.Option(min=1, help="Longer captions are dropped")] = None,
    min_side: Annotated[int | None, typer.Option(min=1, metavar="PIXELS", help="Shorter side of a picture or clip")] = None,
    max_aspect: Annotated[float | None, typer.Option(min=1.0, help="Longer side by shorter side")] = None,
    min_seconds: Annotated[float | None, typer.Option(min=0.0, help="Length of a clip, or of its part that is spoken of")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0.0)] = None,
    duplicates: Annotated[Duplicates, typer.Option(help="What counts as the same sample again; the first one stays")] = Duplicates.KEEP,
    look_distance: Annotated[int, typer.Option(min=0, max=MOST_LOOK_DISTANCE, metavar="BITS", help="By which equal looks may differ")] = 3,
    test: Annotated[list[Path] | None, typer.Option(metavar="DIR", help="Listing or shards whose samples are left out; repeatable")] = None,
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Leave out samples of a listing: by words, size, length, duplicates, and those that stand in a test set."""
    from data_tools.outcome import run_listing
    from data_tools.stages.filter import FilterStage
    from data_tools.stages.rules import Rules

    if source != "listing":
        raise UserError(
            f"filter needs to know how samples look: run `mplug2 data probe {source} {annotation} --out DIR`, then filter listing DIR"
        )
    rules = Rules(
        min_words=min_words,
        max_words=max_words,
        min_side=min_side,
        max_aspect=max_aspect,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
    )
    stage = FilterStage(listing=annotation, rules=rules, duplicates=duplicates, look_distance=look_distance, tests=tuple(test or ()))
    run_listing(stage, out, _effort(part, workers))


@app.command()
def shard(
    source: SourceName,
    annotation: Annotation,
    out: StageOut,
    media: Media = Path(),
    split: OfSplit = Split.TRAIN,
    shard_mb: Annotated[int, typer.Option(min=1, help="Most MiB of a tar")] = 256,
    shard_samples: Annotated[int, typer.Option(min=1, help="Most samples of a tar")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another order of the samples")] = 0,
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Pack a listing, or a corpus that is probed first, into shards that training reads: OUT/SPLIT/STREAM."""
    from data_tools.outcome import run_shard
    from data_tools.stages.plan import Packing

    packing = Packing(shard_mb=shard_mb, shard_samples=shard_samples, seed=seed)
    run_shard(_corpus(source, annotation, media, split), packing, out, _effort(part, workers))


@app.command()
def index(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of tars of one stream")],
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Make the index and the manifest of tars that `shard` wrote and that came without them."""
    from data_tools.stages.index import index as write_index
    from megatron_mplug2.data.manifest import MANIFEST, Manifest

    if (place / MANIFEST).exists():
        typer.echo(f"{place / MANIFEST} is there already; delete it to make it anew")
        return
    effort = _effort(part, workers)
    if left := write_index(place, effort):
        typer.echo(f"part {effort.part} of {place} is done; {left} tars of other parts are not there yet")
        return
    typer.echo(f"{place}: {len(Manifest.load(place))} samples")


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
def verify(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of shards, with all below it")],
    part: PartOption = "1/1",
    workers: WorkersOption = CORES,
) -> None:
    """Check every byte of shards against their manifests."""
    from data_tools.verify import stream_folders
    from data_tools.verify import verify as find_faults

    effort = _effort(part, workers)
    faults = find_faults(place, effort.part, effort.workers)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise UserError(f"{place} has {count} (listed above): copy the named files anew, or shard the corpus again")
    checked = "all bytes" if effort.part.whole else f"the bytes of part {effort.part}"
    typer.echo(f"{place}: {len(stream_folders(place))} streams, {checked} as written")


@app.command()
def report(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of shards, with all below it, or a listing")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Page to write, such as report.html")],
    pictures: Annotated[int, typer.Option(min=1, max=500, help="Samples to show; fewer where the page would get too large")] = 48,
) -> None:
    """Write one HTML page that shows what is in a corpus."""
    from data_tools.report.page import write_report

    write_report(place, out, pictures)
    typer.echo(f"wrote {out}")


@app.command()
def tokenizer(
    places: Annotated[list[Path], typer.Argument(metavar="DIR_OR_FILE...", help="Folders of shards, listings, or text files")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="New file that data.vocab is to name, such as vocab.txt or spm.model")],
    kind: Annotated[TokenizerKind, typer.Option(help="BERT's WordPiece, or a sentencepiece unigram model")] = TokenizerKind.WORDPIECE,
    size: Annotated[int, typer.Option(min=32, help="Most pieces")] = 30522,
) -> None:
    """Train a tokenizer on a corpus."""
    from data_tools.tokenizer import train_tokenizer

    typer.echo(f"{out}: {train_tokenizer(places, out, size=size, kind=kind)} pieces")


@app.command()
def classes(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of shards, with all below it")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="New file that downstream.classes.file is to name")],
) -> None:
    """List the classes of labelled samples, one on each line, for finetuning on them."""
    from data_tools.classes import write_classes

    typer.echo(f"{out}: {write_classes(place, out)} classes")


def _corpus(source: str, annotation: Path, media: Path, split: Split) -> "Corpus":
    from data_tools.stages.listing_stage import Corpus

    if not media.is_dir():  # found out by samples, it would take as long as looking for each of them
        raise UserError(f"--media {media} is no folder: name the one that the pictures or clips of {annotation} lie in")
    return Corpus(source=source, annotation=annotation, media=media, split=split)


def _effort(part: str, workers: int) -> "Effort":
    from data_tools.stages.part import Part
    from data_tools.stages.stage import Effort

    return Effort(part=Part.parse(part), workers=workers)
