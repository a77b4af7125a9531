"""Visual Genome: ANNOTATION is `region_descriptions.json`, --media the folder of its pictures.

    [{"id": 7, "regions": [{"phrase": "a red car", "image_id": 7, "x": 1, ...}, ...]}, ...]

The phrases are the captions. Questions are taken from `question_answers.json` beside it, if it is there:

    [{"id": 7, "qas": [{"question": "What is red?", "answer": "The car.", ...}, ...]}, ...]

A picture is at DIR/7.jpg, or else at DIR/VG_100K/7.jpg or DIR/VG_100K_2/7.jpg. Visual Genome has no splits; --split says what it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, first_there, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.record import Question, Record

_FOLDERS = (".", "VG_100K", "VG_100K_2")


@dataclass(frozen=True)
class VisualGenomeSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        images = read_json(annotation)
        questions = _questions(annotation.parent / "question_answers.json")
        try:
            for image in images:
                key = _id(image["id"])
                phrases = tuple(as_text(region["phrase"], f"a phrase of image {key}") for region in image["regions"])
                file = first_there(*(media / folder / f"{key}.jpg" for folder in _FOLDERS))
                record = Record(captions=phrases, questions=questions.get(key, ()), attributes={})
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=str(key), media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "visual_genome", error) from None


def _questions(path: Path) -> dict[int, tuple[Question, ...]]:
    if not path.exists():
        return {}
    try:
        return {(key := _id(image["id"])): tuple(_question(asked, key) for asked in image["qas"]) for image in read_json(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, "visual_genome", error) from None


def _question(asked: dict[str, Any], key: int) -> Question:
    question, answer = (as_text(asked[name], f"the {name} of a question about image {key}") for name in ("question", "answer"))
    return Question(question=question, answer=answer, kind="")


def _id(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"an id is {number!r}, not a whole number")
    return number
