"""A test split for every family, of real pictures and clips, and configs over it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Question
from tests.data.corpus import Sample, clip, make_config, pair, picture, write_corpus, write_stream

SAMPLES = 13
BAD = 6
"""Number of the sample that cannot be decoded."""


def sample(number: int, media: bytes) -> Sample:
    """With one to three captions, none to two questions, and ten answers to the second."""
    plain = pair(number, media, captions=1 + number % 3, questions=number % 3)
    asked = [replace(question, kind=kind) for question, kind in zip(plain.record.questions, ("color", "shape"), strict=False)]
    if len(asked) == 2:
        asked[1] = replace(asked[1], answers=(asked[1].answer,) * 2 + ("red",) * 8)
    return replace(plain, record=replace(plain.record, questions=tuple(asked)))


def with_question(one: Sample, question: Question) -> Sample:
    return replace(one, record=replace(one.record, questions=(question,)))


def write_splits(folder: Path) -> None:
    """`write_corpus`, and 13 pictures and clips to evaluate, one of each cut off."""
    write_corpus(folder, texts=4, images=4, videos=4)
    for stream, kind, media in (("image_text", MediaKind.IMAGE, picture), ("video_text", MediaKind.VIDEO, clip)):
        samples = [sample(number, media(number)) for number in range(SAMPLES)]
        samples[BAD] = replace(samples[BAD], media=samples[BAD].media[:200])
        write_stream(folder / "test" / stream, kind, samples)


def family_config(corpus: Path, run_dir: Path, family: Family | None, **changes: Any) -> RunConfig:
    """Of a random model, of one family's stream and objectives. Any number of data-parallel ranks up to three."""
    folders = {stream: [str(corpus / "test" / stream)] for stream in ("image_text", "video_text")}
    tree: dict[str, Any] = {"data__test": folders, "training__global_batch": 12, "model__init_std": 0.2}
    if family is not None:
        unused = ("lm",) if family in (Family.IMAGE_RETRIEVAL, Family.VIDEO_RETRIEVAL) else ("vlc", "vlm")
        tree |= {"downstream__family": family, "schedule": [{"steps": 8, family.task.value: 1, "frames": 3, "resolution": 24}]}
        tree |= {f"objectives__{name}__weight": 0 for name in unused}
    return make_config(corpus, run_dir, **(tree | changes))
