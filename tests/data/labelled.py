"""Samples with labels, as shards have them, and configs of the families that are taught them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import MediaKind
from tests.data.corpus import Sample, clip, document, make_config, pair, picture, write_corpus, write_stream

KINDS = {Task.TEXT: MediaKind.TEXT, Task.IMAGE_TEXT: MediaKind.IMAGE, Task.VIDEO_TEXT: MediaKind.VIDEO}
CLASSES = ("red circle", "green", "blue square", "small triangle", "large circle", "large square", "up")


def sample(family: Family, number: int, label: str | None) -> Sample:
    """Number `number` of a family's stream."""
    if family.task is Task.TEXT:
        plain = document(number, 4 + number % 5)
        return replace(plain, record=replace(plain.record, second_text="is it red ?" if number % 2 else "", label=label))
    media = clip(number) if family.task is Task.VIDEO_TEXT else picture(number)
    captions, questions = (1, 0) if "entailment" in family else (0, 0)
    plain = pair(number, media, captions=captions, questions=questions)
    second = picture(1000 + number) if family.pictures == 2 else b""
    return replace(plain, second=second, record=replace(plain.record, label=label))


def write_labelled(folder: Path, family: Family, samples: list[Sample]) -> Path:
    return write_stream(folder, KINDS[family.task], samples)


def label_of(number: int) -> str:
    return CLASSES[number * 3 % len(CLASSES)]


def labelled_config(folder: Path, family: Family, samples: list[Sample], classes: tuple[str, ...] = CLASSES, **changes: Any) -> RunConfig:
    """A run of a random model over the samples, all splits alike; `folder` is new. Any number of data-parallel ranks up to three."""
    write_corpus(folder, texts=1, images=1, videos=1)
    shards = str(write_labelled(folder / "labelled", family, samples))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    streams = {family.task.value: [shards]}
    tree: dict[str, Any] = {
        "data": {"vocab": str(folder / "vocab.txt"), "train": streams, "validation": streams, "test": streams, "text_length": 10}
        | {"document_length": 16, "target_length": 9, "workers": 0, "prefetch": 3, "bad_sample_limit": 1.0},
        "model__init_std": 0.2,
        "model__vision__temporal_on_images": family is Family.PAIR_ENTAILMENT,
        "downstream": {"family": family, "classes": {"file": str(folder / "classes.txt")}},
        "schedule": [{"steps": 8, family.task.value: 1, "frames": 3, "resolution": 24}],
        "training__global_batch": 12,
        "objectives__lm__instructions": 1,
    }
    weights = {f"objectives__{name}__weight": 0 for name in ("mlm", "vlc", "vlm")}
    return make_config(folder, folder / "run", **(tree | weights | changes))
