"""Runs that were finetuned for a family, exported: elsewhere the model tells their classes and boxes as their evaluation does."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launchers.local import launch
from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.conversion.checkpoints import checkpoint_to_folder, folder_to_checkpoint
from megatron_mplug2.conversion.contents import describe
from megatron_mplug2.conversion.exported_model import exported_config
from megatron_mplug2.conversion.huggingface.settings import family_of
from megatron_mplug2.conversion.huggingface.weight_files import read_weights
from megatron_mplug2.data.class_list import read_classes
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.evaluation import evaluate, model
from tests.conversion.exported import elsewhere
from tests.conversion.test_checkpoints import frames_of
from tests.data.corpus import Sample, picture
from tests.data.labelled import CLASSES, labelled_config, sample
from tests.data.test_grounding import SIZES, grounding_config, make_grounding_corpus
from tests.evaluation.test_choose import probabilities, samples_of
from tests.test_predict_command import command
from tests.training.cases import randomise

TOLERANCE = 1e-5
CLASSIFYING = [family for family in Family if family.classifies]

TELL = """
import io
from PIL import Image
outputs, printed = {}, {}
for family, given in inputs.items():
    model, processor = model_of(given["folder"]), processor_of(given["folder"])
    printed[family] = of_card(given["folder"], frames=inputs["video_classification"]["asked"]["videos"][0])
    asked = given["asked"]
    if "images" in asked:
        asked["images"] = [Image.open(io.BytesIO(bytes(file.tolist()))) for file in asked["images"]]
    assert model.config.family == family
    if family == "image_grounding":
        outputs[family] = {"said": processor.batch_decode(model.answer(**processor(**asked)))}
        continue
    names = list(model.config.id2label.values())
    assert names == list(model.config.label2id) and list(model.config.label2id.values()) == list(range(len(names)))
    outputs[family] = {"classes": names, "probabilities": model.choice_probabilities(**processor.choices(names), **processor(**asked))}
model.save_pretrained("saved")
processor.save_pretrained("saved")
for family, lines in printed.items():
    outputs[family]["printed"] = lines
"""


def save(config: RunConfig) -> None:
    """Random weights, temporal modules among them: they tell left from right."""
    inference, weights = model.built(config)
    randomise(weights, inference.context.topology)
    state = RunState(step=1, config=resolved_yaml(config), data={"steps": 1})
    store.save(store.checkpoint_folder(config.run_dir), state, weights, None, inference.context.topology, Retention(last=1))


def as_tensor(file: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(file, np.uint8).copy())


def asked_of(family: Family, samples: list[Sample]) -> dict[str, Any]:
    """What a person gives the processor, all samples at once."""
    if family.task is Task.TEXT:
        return {"text": [one.record.text for one in samples], "text_pair": [one.record.second_text for one in samples]}
    if family.task is Task.VIDEO_TEXT:
        return {"videos": [frames_of(one.media) for one in samples]}
    images = [as_tensor(file) for one in samples for file in (one.media, one.second) if file]
    judged = {"text": [one.record.captions[0] for one in samples]} if family.kind is FamilyKind.ENTAILMENT else {}
    return {"images": images, **judged}


def finetuned(folder: Path, family: Family, samples: list[Sample], classes: tuple[str, ...] = CLASSES) -> RunConfig:
    # Text is cut where its second half is the longer one.
    config = labelled_config(folder, family, samples, classes, data__document_length=10)
    launch(config, save)
    return config


def grounded(folder: Path) -> tuple[RunConfig, dict[str, Any], list[str]]:
    """A run, all phrases with their pictures, and the answers of its evaluation."""
    corpus = make_grounding_corpus(folder / "corpus", SIZES)
    config = grounding_config(corpus, folder / "run", ["training.global_batch=12", "training.microbatch=2"])
    launch(config, save)
    launch(config, evaluate.evaluate)
    lines = [json.loads(line) for line in (config.run_dir / "predictions-image_grounding.jsonl").read_text().splitlines()]
    shards = Manifest.load(corpus / "shards/test/image_text")
    pictures = [as_tensor(shards.media(line["index"])) for line in lines]
    return config, {"images": pictures, "text": [line["asked"] for line in lines]}, [line["said"] for line in lines]


@dataclass(frozen=True, kw_only=True)
class Told:
    by_run: dict[str, Any]
    """By its evaluation, of each family."""
    elsewhere: dict[str, Any]
    place: Path


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    place, by_run, inputs = tmp_path_factory.mktemp("families"), dict[str, Any](), {}
    for family in (Family.IMAGE_GROUNDING, *CLASSIFYING):
        if family is Family.IMAGE_GROUNDING:
            config, asked, by_run[family.value] = grounded(place / family)
        else:
            samples = samples_of(family)
            config, asked = finetuned(place / family, family, samples), asked_of(family, samples)
            by_run[family.value] = probabilities(config)
        checkpoint_to_folder(config.run_dir, place / family / "folder")
        inputs[family.value] = {"folder": str(place / family / "folder"), "asked": asked}
    for name in ("picture", "left", "right"):
        (place / f"{name}.jpg").write_bytes(picture(len(name)))
    return Told(by_run=by_run, elsewhere=elsewhere(place, TELL, inputs), place=place)


@pytest.mark.parametrize("family", CLASSIFYING)
def test_classes_are_told_elsewhere_as_by_the_evaluation(told: Told, family: Family) -> None:
    found, rows = told.elsewhere[family], told.by_run[family]
    assert found["classes"] == list(CLASSES) and found["printed"][0] in CLASSES
    assert float((found["probabilities"] - rows).abs().max()) <= TOLERANCE
    assert float((rows - rows[0]).abs().max()) > 100 * TOLERANCE, "of different samples they differ"


def test_boxes_are_said_elsewhere_as_in_the_evaluation(told: Told) -> None:
    found = told.elsewhere[Family.IMAGE_GROUNDING]["said"]
    assert found == told.by_run[Family.IMAGE_GROUNDING] and len(set(found)) > 1


def test_predict_says_boxes_as_the_evaluation(told: Told) -> None:
    """What is no box, of a random model, stays as it is said."""
    place, expected = told.place / Family.IMAGE_GROUNDING, told.by_run[Family.IMAGE_GROUNDING]
    lines = [json.loads(line) for line in (place / "run/predictions-image_grounding.jsonl").read_text().splitlines()]
    shards = Manifest.load(place / "corpus/shards/test/image_text")
    for number in (0, len(lines) - 1):
        (place / "asked.png").write_bytes(shards.media(lines[number]["index"]))
        for model_of in (place / "run", place / "folder"):
            done = command(model_of, place / "asked.png", "--question", lines[number]["asked"])
            assert (done.code, done.out) == (0, f"{expected[number]}\n"), done


def test_what_transformers_has_saved_again_is_the_same_model(told: Told, tmp_path: Path) -> None:
    """As after finetuning there."""
    folder, saved = told.place / CLASSIFYING[-1] / "folder", told.place / "saved"
    expected, found = (exported_config(place).model_dump(exclude={"run_dir", "data", "downstream"}) for place in (folder, saved))
    assert found == expected and family_of(saved) is CLASSIFYING[-1]
    assert read_classes(saved / "config.json").names == CLASSES
    assert (saved / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    report = folder_to_checkpoint(saved, tmp_path / "imported")
    assert not report.missing and len(report.used) == len(read_weights(folder))


@pytest.mark.parametrize(
    ("family", "classes", "lines"),
    [
        (Family.PAIR_ENTAILMENT, CLASSES, ['images=[Image.open("left.jpg"), Image.open("right.jpg")], text=', "probabilities[0].argmax()"]),
        (
            Family.TEXT_CLASSIFICATION,
            ("1", "2", "3.5"),
            ['text="a text")  # of two: and text_pair="the other"', "float(probabilities[0] @"],
        ),
    ],
)
def test_card_and_inspection_tell_them(tmp_path: Path, family: Family, classes: tuple[str, ...], lines: list[str]) -> None:
    samples = [sample(family, number, classes[number % len(classes)]) for number in range(3)]
    config = finetuned(tmp_path / "run", family, samples, classes)
    checkpoint_to_folder(config.run_dir, tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    assert all(line in card for line in (*lines, f"- finetuned for: {family.replace('_', ' ')}", "processor.choices("))
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    assert {f"finetuned for: {family}", f"classes: {len(classes)} ({shown})"} <= set(describe(tmp_path / "folder"))
