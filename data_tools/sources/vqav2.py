"""VQAv2: ANNOTATION is `v2_OpenEnded_mscoco_train2014_questions.json` or the like, --media the folder of COCO's pictures.

    {"data_subtype": "train2014", "questions": [{"question_id": 7000, "image_id": 7, "question": "Is it red?"}, ...]}

`v2_mscoco_train2014_annotations.json` beside it has the answers of ten people to each:

    {"annotations": [{"question_id": 7000, "answer_type": "yes/no", "answers": [{"answer": "yes", ...}, ...], ...}, ...]}

The most frequent one is taught, of equals the first. The questions about one picture are gathered; there are no captions. A picture is at
DIR/train2014/COCO_train2014_000000000007.jpg, or else at DIR/COCO_train2014_000000000007.jpg or DIR/000000000007.jpg. The file is one
split's; --split says which.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_name, as_text, read_json, wrong_layout
from data_tools.sources.coco_pictures import coco_picture
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record
from megatron_mplug2.errors import UserError


@dataclass(frozen=True)
class Vqav2Source:
    split: Split

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and the answers beside it."""
        return [annotation, _of_answers(annotation)]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        answers = _answers(_of_answers(annotation), annotation)
        questions: dict[int, list[Question]] = {}
        try:
            part = as_name(fields["data_subtype"])
            for row in fields["questions"]:
                questions.setdefault(as_id(row["image_id"], "an image_id"), []).append(_question(row, answers))
            for image, asked in questions.items():
                record = Record(questions=tuple(asked), attributes={})
                file = coco_picture(media, part, image)
                yield Sample(split=self.split, stream=Task.IMAGE_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "vqav2", error) from None


def _of_answers(annotation: Path) -> Path:
    return annotation.with_name(annotation.name.replace("OpenEnded_", "").replace("questions", "annotations"))


def _answers(path: Path, questions: Path) -> dict[int, tuple[tuple[str, ...], str]]:
    """What people answered to each question, and the kind of answer."""
    if path == questions or not path.exists():
        raise UserError(f"the answers to {questions} are not there: put {path.name} beside it; see `mplug2 data sources vqav2`")
    try:
        return {as_id(row["question_id"], "a question_id"): _answered(row) for row in read_json(path)["annotations"]}
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, "vqav2", error) from None


def _answered(row: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    where = f"question {row['question_id']}"
    given = tuple(as_text(answer["answer"], f"an answer to {where}") for answer in row["answers"])
    if not given:
        raise ValueError(f"{where} has no answers")
    return given, as_text(row["answer_type"], f"the answer_type of {where}")


def _question(row: dict[str, Any], answers: dict[int, tuple[tuple[str, ...], str]]) -> Question:
    number = as_id(row["question_id"], "a question_id")
    if number not in answers:
        raise ValueError(f"question {number} has no answers")
    given, kind = answers[number]
    question = as_text(row["question"], f"question {number}")
    return Question(question=question, answer=Counter(given).most_common(1)[0][0], kind=kind, answers=given)
