"""The page of a family's evaluation: scores, and with their pictures the predictions that are best and worst."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.coordinates import read_box
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.evaluation_batches import last_phase
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.samples import Augmentation, Picture, decoded, media_request, read_record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.evaluation.families.evaluate import FamilyEvaluation
from megatron_mplug2.evaluation.families.findings import Findings, Kind, Prediction
from megatron_mplug2.evaluation.samples import SIDE, SeenSample, seen
from megatron_mplug2.pages.boxes import BoxKind, DrawnBox, boxed, mark
from megatron_mplug2.pages.markup import apart, shown, table
from megatron_mplug2.pages.shell import page, replace_page

SHOWN = 12
"""Predictions at either end, of each kind."""
REFERENCES = 5
"""Of a prediction, at most."""
_STYLE = Path(__file__).with_name("style.css")
_TITLES = {
    Kind.ANSWER: "Answers",
    Kind.CAPTION: "Captions",
    Kind.BOX: "Boxes",
    Kind.TEXT_TO_MEDIA: "What texts find",
    Kind.MEDIA_TO_TEXT: "Texts that are found",
    Kind.CLASS: "Classes",
}

BOX_SIDE = 320
"""Pixels at most of a picture that boxes are drawn on: what a phrase speaks of may be small."""

_Frames = Mapping[int, SeenSample]
"""Pictures by sample."""


def write_page(out: Path, evaluation: FamilyEvaluation, config: RunConfig, split: Split, step: int) -> None:
    """One HTML file that needs no other, in the place of an older one. Reads the pictures that it shows from the split again.

    Raises UserError where it cannot be written, OSError where a picture cannot be read.
    """
    ends = {kind: best_and_worst([one for one in evaluation.findings.predictions if one.kind is kind]) for kind in Kind}
    cards = [one for both in ends.values() for end in both for one in end]
    indices = sorted({index for one in cards for index in (one.index, one.found) if index is not None})
    frames = frames_of(config, split, evaluation.family.task, indices)
    title = f"{shown(config.name)}: {evaluation.family.replace('_', ' ')}"
    replace_page(out, page(title, _body(evaluation, ends, frames, split, step), _STYLE.read_text(encoding="utf-8")))


def best_and_worst(predictions: Sequence[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    """By score; of equals the first of the split. None is in both."""
    ordered = sorted(predictions, key=lambda one: -one.score)
    best = ordered[: min(SHOWN, (len(ordered) + 1) // 2)]
    rest = sorted(ordered[len(best) :], key=lambda one: (one.score, one.index))
    return best, rest[:SHOWN]


def frames_of(config: RunConfig, split: Split, task: Task, indices: Sequence[int]) -> dict[int, SeenSample]:
    """Of each sample as the model saw it: the picture or both of a pair, or up to four frames of the clip; nothing of texts, and of what
    cannot be decoded."""
    if task is Task.TEXT:
        return {}
    phase = last_phase(config, task)
    picture = Picture(
        frames=phase.frames if task is Task.VIDEO_TEXT else 1,
        resolution=phase.resolution,
        augmentation=Augmentation.NONE,
        pictures=config.pictures,
    )
    manifest = open_stream(config.data, split, task)
    found = (_frames(manifest, picture, config, task, index) for index in indices)
    return {one.index: one for one in found if one is not None}


def _frames(manifest: Manifest, picture: Picture, config: RunConfig, task: Task, index: int) -> SeenSample | None:
    draws = SampleDraws(seed=config.training.seed, task=task, epoch=0, index=index)
    request = media_request(manifest, picture, draws, config.data, read_record(manifest, index))
    (pixels,) = decoded(PyavDecoder(), [request])
    if not isinstance(pixels, torch.Tensor):  # another decoder made something of it
        return None
    grounds = config.downstream is not None and config.downstream.family.kind is FamilyKind.GROUNDING
    return seen(index, pixels, BOX_SIDE if grounds else SIDE)


def _body(
    evaluation: FamilyEvaluation, ends: Mapping[Kind, tuple[list[Prediction], list[Prediction]]], frames: _Frames, split: Split, step: int
) -> Iterator[str]:
    lost = f", without {len(evaluation.left_out):,} that cannot be decoded" if evaluation.left_out else ""
    yield f"<p>{split.capitalize()} split, {evaluation.samples:,} samples{lost}, after step {step:,}.</p>"
    yield from (f"<p class='note'>{shown(note, 500)}</p>" for note in evaluation.findings.notes)
    yield f"<div class='numbers'>{_scores(evaluation.findings)}</div>"
    for kind, (best, worst) in ends.items():
        for title, some in (("Best", best), ("Worst", worst)):
            if some:
                cards = "".join(_card(one, frames) for one in some)
                yield f"<h2>{_TITLES[kind]}: {title.lower()}</h2><div class='samples'>{cards}</div>"


def _scores(findings: Findings) -> str:
    rows = [(shown(score.name), f"{score.value:.1f}", "" if score.chance is None else f"{score.chance:.1f}") for score in findings.scores]
    return table(("percent", "model", "by chance"), rows)


def _card(prediction: Prediction, frames: _Frames) -> str:
    own = _strip(frames, prediction.index) if prediction.kind is not Kind.BOX else _boxed(frames, prediction)
    facts = "".join(f"<dt>{name}</dt><dd class='{kind}'>{value}</dd>" for name, value, kind in _facts(prediction, frames))
    top = own if prediction.kind is not Kind.TEXT_TO_MEDIA else ""
    return f"<figure class='sample'>{top}<figcaption><dl>{facts}</dl><small>{shown(prediction.key, 80)}</small></figcaption></figure>"


def _strip(frames: _Frames, index: int) -> str:
    return f"<div class='strip'>{''.join(_pictures(frames, index))}</div>"


def _pictures(frames: _Frames, index: int) -> list[str]:
    """As markup."""
    sample = frames.get(index)
    return [f"<img src='data:image/jpeg;base64,{frame}' alt=''>" for frame in (sample.frames if sample is not None else ())]


def _boxed(frames: _Frames, prediction: Prediction) -> str:
    """The picture with the true box and, where it is one, the box that was said."""
    sample = frames.get(prediction.index)
    if sample is None:
        return _strip(frames, prediction.index)
    texts = [*((BoxKind.RIGHT, text) for text in prediction.references), (BoxKind.SAID, prediction.said)]
    boxes = [DrawnBox(kind=kind, box=box) for kind, text in texts if (box := read_box(text, sample.resolution)) is not None]
    pictures = (boxed(picture, boxes, sample.resolution) for picture in _pictures(frames, prediction.index))
    return f"<div class='strip'>{''.join(pictures)}</div>"


def _facts(prediction: Prediction, frames: _Frames) -> Iterator[tuple[str, str, str]]:
    """Name, markup and class of each."""
    if prediction.asked:
        yield "asked", apart(prediction.asked), ""
    right = "right" if prediction.score >= 100 and prediction.kind is not Kind.CAPTION else "said"
    if prediction.found is not None:
        yield _told(prediction), _strip(frames, prediction.found) + apart(prediction.said), right
        if prediction.found != prediction.index:
            yield "its own", _strip(frames, prediction.index) + apart(prediction.key), ""
        return
    yield _told(prediction), apart(prediction.said or "nothing"), right
    references = list(dict.fromkeys(prediction.references))
    more = f"<br>and {len(references) - REFERENCES} more" if len(references) > REFERENCES else ""
    yield (
        f"{mark(BoxKind.RIGHT) if prediction.kind is Kind.BOX else ''}right",
        "<br>".join(apart(reference) for reference in references[:REFERENCES]) + more,
        "",
    )


def _told(prediction: Prediction) -> str:
    """What is said of the prediction's score."""
    match prediction.kind:
        case Kind.ANSWER:
            return f"said, {prediction.score:.0f} % right"
        case Kind.CAPTION:
            return f"said, CIDEr {prediction.score:.0f}"
        case Kind.CLASS:
            return "said"
        case Kind.BOX:
            return f"{mark(BoxKind.SAID)}said, overlap {prediction.score:.0f} %"
        case Kind.TEXT_TO_MEDIA | Kind.MEDIA_TO_TEXT:
            return (
                f"found; a right one at place {100 / prediction.score:.0f}"
                if prediction.score
                else "found; no right one among the candidates"
            )
