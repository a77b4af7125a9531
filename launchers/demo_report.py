"""What the demo shows at its end: a table of what was learned, and a few clips with what the model says about them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.decode import decode_video
from megatron_mplug2.data.decoding.contract import FULL_VIEW
from megatron_mplug2.data.evaluation_batches import last_phase
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.evaluation.figures import Results, figures
from megatron_mplug2.evaluation.questions import MOTION

CLIPS = 3
SIDE, MARGIN, LINE, FONT_SIZE = 128, 12, 20, 14
"""Pixels of the contact sheet: a frame's side, margins, a line of text, its font."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip with what the model says about it."""

    index: int
    """In the manifest of the test split."""
    lines: tuple[str, ...]


def results_table(trained: Results, untrained: Results) -> Table:
    """Percentages but for CIDEr: of the trained model, of the untrained one, and by chance where that is known."""
    table = Table(title="What it learned (test split, %)", title_justify="left")
    for name in ("", "trained", "untrained", "chance"):
        table.add_column(name, justify="left" if not name else "right")
    for figure in figures(trained, untrained):
        table.add_row(figure.label, *(_shown(value) for value in (figure.trained, figure.untrained, figure.chance)))
    return table


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def clips_to_show(trained: Path, untrained: Path) -> list[Shown]:
    """The first clips of different motions, from the predictions of both evaluations."""
    said, said_before = _predictions(trained), _predictions(untrained)
    shown: dict[str, Shown] = {}
    for caption in (line for line in said if line["kind"] == "caption"):
        index, motion = caption["index"], caption["attributes"].get("motion", "")
        before = next(line["said"] for line in said_before if line["kind"] == "caption" and line["index"] == index)
        asked = [line for line in said if line["kind"] == "answer" and line["index"] == index and line["question"]["kind"] == MOTION]
        if not asked or motion in shown or len(shown) == CLIPS:
            continue
        answer = asked[0]
        shown[motion] = Shown(
            index=index,
            lines=(
                f"caption: {caption['said']}",
                f"  (truth: {caption['references'][0]}; untrained: {before or 'nothing'})",
                f"{answer['question']['question']} {answer['said']}",
                f"  (truth: {answer['question']['answer']}; clip played backwards: {answer['said_reversed']})",
            ),
        )
    return list(shown.values())


def _predictions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_contact_sheet(config: RunConfig, clips: list[Shown], path: Path) -> None:
    """A PNG with a row of frames for each clip, and below them what the model says."""
    manifest = open_stream(config.data, Split.TEST, Task.VIDEO_TEXT)
    frames = last_phase(config, Task.VIDEO_TEXT).frames
    height = SIDE + MARGIN + LINE * max((len(clip.lines) for clip in clips), default=0)
    sheet = Image.new("RGB", (max(560, MARGIN + frames * (SIDE + MARGIN)), MARGIN + len(clips) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for place, clip in enumerate(clips):
        top = MARGIN + place * height
        for number, pixels in enumerate(_pixels(manifest.media(clip.index), frames)):
            sheet.paste(Image.fromarray(pixels), (MARGIN + number * (SIDE + MARGIN), top))
        for number, line in enumerate(clip.lines):
            draw.text((MARGIN, top + SIDE + 4 + number * LINE), line, fill="black", font=font)
    unfinished = path.with_name(f".{path.name}")
    sheet.save(unfinished, "PNG")
    unfinished.replace(path)


def _pixels(content: bytes, frames: int) -> NDArray[np.uint8]:
    """[T, SIDE, SIDE, 3]: the frames that the model sees, larger."""
    pixels: NDArray[np.uint8] = decode_video(content, frames, SIDE, FULL_VIEW, None).numpy().transpose(1, 2, 3, 0)
    return pixels
