"""MSR-VTT: ANNOTATION is `videodatainfo.json`, --media the folder of its clips, `video7.mp4` or another suffix.

    {"videos": [{"video_id": "video7", "split": "train"}, ...], "sentences": [{"video_id": "video7", "caption": "..."}, ...]}

The splits are "train", "validate" and "test". Questions are taken from every `*qa.json` beside it (MSRVTT-QA's `train_qa.json` ...):

    [{"video_id": 7, "question": "...", "answer": "..."}, ...]
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sources.base import Sample, read_json, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.manifest import Question, Record

_SPLITS = {"train": Split.TRAIN, "validate": Split.VALIDATION, "test": Split.TEST}


class MsrvttSource:
    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        fields = read_json(annotation)
        questions: defaultdict[str, list[Question]] = defaultdict(list)
        for path in sorted(annotation.parent.glob("*qa.json")):
            try:
                for asked in read_json(path):
                    questions[_video(asked["video_id"])].append(Question(question=asked["question"], answer=asked["answer"], kind=""))
            except (KeyError, TypeError) as error:
                raise wrong_layout(path, "msrvtt", error) from None
        files = {path.stem: path for path in sorted(media.iterdir())} if media.is_dir() else {}
        captions: defaultdict[str, list[str]] = defaultdict(list)
        try:
            for sentence in fields["sentences"]:
                captions[sentence["video_id"]].append(sentence["caption"])
            for video in fields["videos"]:
                key = video["video_id"]
                record = Record(captions=tuple(captions[key]), questions=tuple(questions[key]), attributes={})
                file = files.get(key, media / f"{key}.mp4")
                yield Sample(split=_SPLITS[video["split"]], stream=Task.VIDEO_TEXT, key=key, media=file, record=record)
        except (KeyError, TypeError) as error:
            raise wrong_layout(annotation, "msrvtt", error) from None


def _video(number: Any) -> str:
    return str(number) if str(number).startswith("video") else f"video{number}"
