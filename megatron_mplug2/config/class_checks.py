"""Checks of a run whose family has a closed list of classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_mplug2.config.downstream import ClassesConfig, Family
    from megatron_mplug2.config.schema import RunConfig


def class_errors(run: RunConfig) -> Iterator[str]:
    downstream = run.downstream
    if downstream is None:
        return
    family, classes = downstream.family, downstream.classes
    if not family.classifies:
        if classes is not None:
            yield f"downstream.classes: downstream.family={family} has no list of classes; leave it out"
        return
    if classes is None:
        yield f"downstream.classes is missing: downstream.family={family} chooses among the classes in its file"
    else:
        yield from _view_errors(family, classes)
    yield from _teaching_errors(run, family)


def _view_errors(family: Family, classes: ClassesConfig) -> Iterator[str]:
    from megatron_mplug2.config.downstream import Family

    alone = (Family.IMAGE_CLASSIFICATION, Family.VIDEO_CLASSIFICATION)
    for number, prompt in enumerate(classes.prompts):
        if prompt.count("{}") != 1:
            yield f"downstream.classes.prompts.{number}={prompt!r} must have {{}} once, where the class goes"
    if classes.prompts and family not in alone:
        yield f"downstream.classes.prompts: downstream.family={family} asks about more than a picture or a clip, which VLC cannot compare"
    if classes.segments > 1 and family is not Family.VIDEO_CLASSIFICATION:
        yield f"downstream.classes.segments={classes.segments}: downstream.family={family} has no clips"
    if classes.crops > 1 and family not in alone:
        yield f"downstream.classes.crops={classes.crops}: only pictures and clips alone are seen in several crops"


def _teaching_errors(run: RunConfig, family: Family) -> Iterator[str]:
    from megatron_mplug2.config.downstream import Family
    from megatron_mplug2.config.schedule import Task

    instructions = run.objectives.lm.instructions
    if instructions != 1:
        yield f"objectives.lm.instructions={instructions}: a sample of downstream.family={family} has one class; set it to 1"
    if family.task is Task.TEXT and run.objectives.mlm.weight:
        yield f"objectives.mlm.weight={run.objectives.mlm.weight:g}: downstream.family={family} does not train it; set it to 0"
    if family is Family.PAIR_ENTAILMENT and not run.model.vision.temporal_on_images:
        yield (
            f"model.vision.temporal_on_images=false: downstream.family={family} sees two pictures as two frames, and only the temporal "
            "modules tell the left one from the right one"
        )
