"""Configs whose family has a list of classes: what is said where they do not fit, and the lists beside them."""

from pathlib import Path

import pytest

from data_tools.sources import glue
from megatron_mplug2.config.load import load_config
from megatron_mplug2.data.class_list import read_classes
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.metrics.classes import measures_of
from tests.config.test_finetune_configs import FOLDER, NAMES

CASES = [
    (
        "demo_image_classification",
        ["downstream.classes=null"],
        "downstream.classes is missing: downstream.family=image_classification chooses among the classes in its file",
    ),
    ("demo_qa", ["downstream.classes.file=a"], "downstream.classes: downstream.family=video_qa has no list of classes; leave it out"),
    (
        "demo_image_classification",
        ["downstream.classes.prompts=[a picture of it]"],
        "downstream.classes.prompts.0='a picture of it' must have {} once, where the class goes",
    ),
    (
        "demo_image_entailment",
        ["downstream.classes.prompts=['{}']"],
        "downstream.classes.prompts: downstream.family=image_entailment asks about more than a picture or a clip, which VLC cannot compare",
    ),
    (
        "demo_image_classification",
        ["downstream.classes.segments=2"],
        "downstream.classes.segments=2: downstream.family=image_classification has no clips",
    ),
    (
        "demo_text_classification",
        ["downstream.classes.crops=3"],
        "downstream.classes.crops=3: only pictures and clips alone are seen in several crops",
    ),
    (
        "demo_video_classification",
        ["objectives.lm.instructions=2"],
        "objectives.lm.instructions=2: a sample of downstream.family=video_classification has one class; set it to 1",
    ),
    (
        "demo_text_classification",
        ["objectives.mlm.weight=0.5"],
        "objectives.mlm.weight=0.5: downstream.family=text_classification does not train it; set it to 0",
    ),
    (
        "demo_pair_entailment",
        ["model.vision.temporal_on_images=false"],
        (
            "model.vision.temporal_on_images=false: downstream.family=pair_entailment sees two pictures as two frames, and only the "
            "temporal modules tell the left one from the right one"
        ),
    ),
]


@pytest.mark.parametrize(("name", "overrides", "said"), CASES)
def test_what_does_not_fit_is_named(name: str, overrides: list[str], said: str) -> None:
    path = FOLDER / f"{name}.yaml"
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert said in str(caught.value).removeprefix(f"{path}: ").split("\n  ")


def test_zero_shot_and_views_are_overrides() -> None:
    overrides = ["downstream.classes.prompts=['a video of a person {}']", "run_dir=runs/large"]
    config = load_config(FOLDER / "kinetics400_classification.yaml", overrides)
    assert config.downstream is not None and config.downstream.classes is not None
    assert (config.downstream.classes.segments, config.downstream.classes.crops) == (4, 3)
    assert config.downstream.classes.prompts == ("a video of a person {}",)


@pytest.mark.parametrize("path", sorted((FOLDER / "classes").glob("*.txt")), ids=lambda path: path.stem)
def test_a_list_of_classes_can_be_read_and_its_config_names_it(path: Path) -> None:
    classes, (config,) = read_classes(path), [load_config(FOLDER / f"{name}.yaml") for name in NAMES if name.startswith(f"{path.stem}_")]
    assert config.downstream is not None and config.downstream.classes is not None and config.downstream.best is not None
    assert config.downstream.classes.file == Path("configs/finetune/classes") / path.name
    measures = measures_of(config.downstream.family, classes)
    assert config.downstream.best.figure in {f"{config.downstream.family}/{measure}" for measure in measures}


def test_lists_are_in_the_words_of_the_readers() -> None:
    """Of GLUE's labels in words, and the class that F1 is about is the last: the papers' class 1."""
    folders = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "qqp": "QQP", "qnli": "QNLI", "rte": "RTE", "mnli": "MNLI"}
    for name, task in folders.items():
        names, words = read_classes(FOLDER / "classes" / f"{name}.txt").names, list(glue._TASKS[task].words.values())
        assert set(names) <= set(words)
        if set(names) == set(words):
            assert list(names) == words
