"""Visual Genome: ANNOTATION is `region_descriptions.json` or `question_answers.json`, --media the folder of its pictures.

    [{"id": 7, "regions": [{"phrase": "a red car", "x": 1, "y": 2, "width": 30, "height": 40, ...}, ...]}, ...]
    [{"id": 7, "qas": [{"question": "What is red?", "answer": "The car.", ...}, ...]}, ...]

The phrases are the captions, and with their boxes the regions. Of `region_descriptions.json`, questions are taken from
`question_answers.json` beside it, if it is there. A picture is at DIR/7.jpg, or else at DIR/VG_100K/7.jpg or DIR/VG_100K_2/7.jpg. Visual
Genome has no splits; --split says what it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_number, as_text, first_there, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record, Region

_FOLDERS = (".", "VG_100K", "VG_100K_2")
_QUESTIONS = "question_answers.json"


@dataclass(frozen=True)
class VisualGenomeSource:
    split: Split

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and the questions beside it."""
        return [annotation, annotation.parent / _QUESTIONS]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        beside = annotation.parent / _QUESTIONS
        questions = _questions(beside) if beside.exists() and annotation.name != _QUESTIONS else {}
        try:
            for image in read_json(annotation):
                key = _image(image)
                asked = _asked(image) if "qas" in image else questions.get(key, ())
                regions = () if "qas" in image else tuple(_region(region, key) for region in image["regions"])
                phrases = tuple(phrase for region in regions for phrase in region.phrases)
                record = Record(captions=phrases, questions=asked, regions=regions, attributes={})
                file = first_there(*(media / folder / f"{key}.jpg" for folder in _FOLDERS))
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=str(key), media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "visual_genome", error) from None


def _questions(path: Path) -> dict[int, tuple[Question, ...]]:
    try:
        return {_image(image): _asked(image) for image in read_json(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, "visual_genome", error) from None


def _asked(image: dict[str, Any]) -> tuple[Question, ...]:
    where = f"of a question about image {image['id']}"
    return tuple(
        Question(question=as_text(asked["question"], f"the question {where}"), answer=as_text(asked["answer"], f"the answer {where}"))
        for asked in image["qas"]
    )


def _region(region: dict[str, Any], key: int) -> Region:
    left, upper, width, height = (as_number(region[side], f"{side} of a region of image {key}") for side in ("x", "y", "width", "height"))
    return Region(box=(left, upper, width, height), phrases=(as_text(region["phrase"], f"a phrase of image {key}"),))


def _image(image: dict[str, Any]) -> int:
    return as_id(image["id"], "an id")
