"""MSRVTT-QA: ANNOTATION is `train_qa.json`, `val_qa.json` or `test_qa.json`, --media the folder of MSR-VTT's clips.

    [{"id": 0, "video_id": 7, "category_id": 14, "question": "what is a man doing?", "answer": "dance"}, ...]

The questions of one clip are gathered; there are no captions (`msrvtt` reads both). A clip is `video7.mp4` or has another suffix. The file
is one split's; --split says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_id, as_text, files_by_stem, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record


@dataclass(frozen=True)
class MsrvttQaSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        files = files_by_stem(media)
        for number, questions in questions_by_video(annotation, "msrvtt_qa").items():
            key = f"video{number}"
            record = Record(questions=tuple(questions), attributes={})
            file = files.get(key) or media / f"{key}.mp4"
            yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)


def questions_by_video(path: Path, source: str) -> dict[int, list[Question]]:
    """What is asked about each clip's number, in the file's order. Raises UserError, which names `source`."""
    questions: dict[int, list[Question]] = {}
    try:
        for row in read_json(path):
            key = as_id(row["video_id"], "a video_id")
            question, answer = (as_text(row[name], f"the {name} of a question about video {key}") for name in ("question", "answer"))
            questions.setdefault(key, []).append(Question(question=question, answer=answer))
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, source, error) from None
    return questions
