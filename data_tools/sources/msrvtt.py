"""MSR-VTT: ANNOTATION is `videodatainfo.json`, --media the folder of its clips, `video7.mp4` or another suffix.

    {"videos": [{"video_id": "video7", "split": "train"}, ...], "sentences": [{"video_id": "video7", "caption": "..."}, ...]}

The splits are "train", "validate" and "test". Questions are taken from every `*qa.json` beside it (MSRVTT-QA's `train_qa.json` ...):

    [{"video_id": 7, "question": "...", "answer": "..."}, ...]
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, files_by_stem, one_of, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record

_SPLITS = {"train": Split.TRAIN, "validate": Split.VALIDATION, "test": Split.TEST}


class MsrvttSource:
    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and what is read beside it."""
        return [annotation, *_of_questions(annotation)]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        questions: defaultdict[str, list[Question]] = defaultdict(list)
        for path in _of_questions(annotation):
            try:
                for asked in read_json(path):
                    key = _video(asked["video_id"])
                    question, answer = (as_text(asked[name], f"the {name} of a question about {key}") for name in ("question", "answer"))
                    questions[key].append(Question(question=question, answer=answer, kind=""))
            except (KeyError, TypeError, ValueError) as error:
                raise wrong_layout(path, "msrvtt", error) from None
        files = files_by_stem(media)
        captions: defaultdict[str, list[str]] = defaultdict(list)
        try:
            for sentence in fields["sentences"]:
                said = as_text(sentence["caption"], f"a caption of {sentence['video_id']}")
                captions[sentence["video_id"]].append(said)
            for video in fields["videos"]:
                key = as_text(video["video_id"], "a video_id")
                record = Record(captions=tuple(captions[key]), questions=tuple(questions[key]), attributes={})
                file = files.get(key) or file_in(media, f"{key}.mp4")
                split = one_of(video["split"], _SPLITS, "a video's split")
                yield Sample(split=split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_layout(annotation, "msrvtt", error) from None


def _of_questions(annotation: Path) -> list[Path]:
    return sorted(annotation.parent.glob("*qa.json"))


def _video(number: Any) -> str:
    return str(number) if str(number).startswith("video") else f"video{number}"
