"""The released project's JSON lines: ANNOTATION is the file, --media the folder of its clips.

    {"video_id": "video7", "caption": "a man dances"}
    {"video_id": "video7", "golden_captions": ["a man dances", "someone is dancing"]}
    {"video_id": "video7", "question": "who dances?", "answer": "man"}

The rows of one clip are gathered, wherever they are in the file: put the lines of a captions file and of a questions file into one
where both are wanted. A clip is at DIR/video_id.mp4, or else .avi; one whose
video_id begins with "tumblr_" is a .gif. The file is one split's; --split says which. Other fields are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, first_there, read_json_lines, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record


@dataclass
class _Texts:
    captions: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def add(self, row: dict[str, Any], where: str) -> None:
        if not {"caption", "golden_captions", "question"} & row.keys():
            raise ValueError(f"{where} has no caption, golden_captions or question")
        if "caption" in row:
            self.captions.append(as_text(row["caption"], f"the caption in {where}"))
        if "golden_captions" in row:
            if not isinstance(row["golden_captions"], list):
                raise TypeError(f"the golden_captions in {where} are no list")
            self.captions.extend(as_text(caption, f"a caption in {where}") for caption in row["golden_captions"])
        if "question" in row:
            question, answer = (as_text(row[name], f"the {name} in {where}") for name in ("question", "answer"))
            self.questions.append(Question(question=question, answer=answer, kind=""))


@dataclass(frozen=True)
class ReleasedSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        clips: dict[str, _Texts] = {}
        try:
            for number, row in read_json_lines(annotation, "released"):
                key = as_text(row["video_id"], f"the video_id in line {number}")
                clips.setdefault(key, _Texts()).add(row, f"line {number}")
            for key, texts in clips.items():
                record = Record(captions=tuple(texts.captions), questions=tuple(texts.questions), attributes={})
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=_clip(media, key)), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "released", error) from None


def _clip(media: Path, key: str) -> Path:
    suffixes = (".gif",) if key.startswith("tumblr_") else (".mp4", ".avi")
    return first_there(*(file_in(media, f"{key}{suffix}") for suffix in suffixes))
