"""`mplug2 data report`: writes the page. It needs no script and no other file, and shows the same for the same corpus."""

from collections.abc import Iterator
from pathlib import Path

from data_tools.fresh_file import check_free, write_fresh
from data_tools.report.contents import Contents, Pick, read_contents
from data_tools.report.sheet import Sheet
from data_tools.report.tally import StreamTally
from data_tools.sample import Reason
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.pages.markup import amount, apart, shown, table
from megatron_mplug2.pages.shell import encoded, page

_TOP_WORDS = 40
_TOP_STOP_WORDS = 15
_STAGES = {
    "probe": {Reason.MISSING, Reason.UNREADABLE, Reason.CRASHED, Reason.HUNG, Reason.NO_TEXT, Reason.TOO_LARGE},
    "filter": {
        Reason.CAPTION_LENGTH,
        Reason.SIZE,
        Reason.DURATION,
        Reason.DUPLICATE_CONTENT,
        Reason.DUPLICATE_LOOK,
        Reason.IN_TEST_SET,
    },
}
"""Which stage leaves a sample out for a reason."""
_STYLE = Path(__file__).with_name("style.css")


def write_report(place: Path, out: Path, pictures: int) -> None:
    """Writes one HTML page about a listing or the shards under a folder, with up to `pictures` samples decoded.

    Raises UserError where `out` exists or cannot be written, and as `read_contents`.
    """
    check_free(out)
    contents = read_contents(place, pictures)
    write_fresh(out, encoded(_page(place, contents, pictures)))


def _page(place: Path, contents: Contents, pictures: int) -> str:
    return page(f"Corpus {shown(place.absolute().name)}", _body(contents, pictures), _STYLE.read_text(encoding="utf-8"))


def _body(contents: Contents, pictures: int) -> Iterator[str]:
    yield _overview(contents)
    sheet = Sheet()
    media = sum(tally.task is not Task.TEXT for tally in contents.streams.values())
    for name, tally in sorted(contents.streams.items()):
        most = pictures // max(media, 1) if tally.task is not Task.TEXT else pictures
        yield from _stream(name, tally, contents.picks.get(name, [])[:most], sheet)
    yield _left_out(contents)


def _overview(contents: Contents) -> str:
    streams = [
        (shown(name), f"{tally.samples:,}", amount(tally.media_bytes) if tally.task is not Task.TEXT else "")
        for name, tally in sorted(contents.streams.items())
    ]
    stored = [
        (shown(one.name), f"{one.files:,}", amount(one.size), f"<code>{one.fingerprint}</code>")
        for one in sorted(contents.stored, key=lambda one: one.name)
    ]
    on_disk = table(("folder", "files", "size", "SHA-256"), stored)
    return f"{table(('stream', 'samples', 'pictures and clips'), streams)}<h2>On disk</h2>{on_disk}"


def _stream(name: str, tally: StreamTally, picks: list[Pick], sheet: Sheet) -> Iterator[str]:
    yield f"<section><h2>{shown(name)}</h2>"
    told = f"{tally.samples:,} samples; texts of {tally.records:,} of them were read: {tally.texts:,} texts."
    if tally.codecs:
        codecs = ", ".join(f"{shown(codec)} {count:,}" for codec, count in tally.codecs.most_common())
        told += f" Codecs: {codecs}."
    if tally.variable_rate:
        told += f" {tally.variable_rate:,} clips of variable frame rate."
    yield f"<p>{told}</p>"
    yield f'<div class="charts">{"".join(histogram.drawing() for histogram in tally.histograms())}</div>'
    yield _words("Words", tally.words.top(_TOP_WORDS, stop_words=False))
    yield _words("Stop words", tally.words.top(_TOP_STOP_WORDS, stop_words=True))
    if picks and not sheet.full:
        yield f"<h3>{len(picks)} samples, drawn by their places</h3>{sheet.figures(picks)}"
        if tally.task is not Task.TEXT:
            yield f"<h3>One sample as training sees it, in eight epochs</h3>{sheet.views(picks)}"
    yield "</section>"


def _words(title: str, words: list[tuple[str, int]]) -> str:
    if not words:
        return ""
    return f'<p class="words"><b>{title}:</b> {" ".join(f"<span>{apart(word)} {count:,}</span>" for word, count in words)}</p>'


def _left_out(contents: Contents) -> str:
    if not contents.left_out:
        return "<h2>Left out</h2><p>Nothing that is known of.</p>"
    rows = []
    for reason, count in sorted(contents.left_out.items(), key=lambda one: (-one[1], one[0])):
        stage = next((stage for stage, reasons in _STAGES.items() if reason in reasons), "")
        examples = contents.faults[reason].items() if reason in contents.faults else []
        said = "<br>".join(f"{apart(sample.key, 80)} {shown(sample.fault.detail if sample.fault else '')}".strip() for sample in examples)
        rows.append((shown(reason), stage, f"{count:,}", said))
    told = table(("reason", "by", "samples", "for instance"), rows)
    return f'<h2>Left out</h2><div class="left-out">{told}</div>'
