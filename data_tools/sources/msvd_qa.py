"""MSVD-QA: ANNOTATION is `train_qa.json`, `val_qa.json` or `test_qa.json`, --media the folder of MSVD's clips.

    [{"id": 0, "video_id": 7, "question": "what is chewing on a nut?", "answer": "hamster"}, ...]

The questions of one clip are gathered; there are no captions. `youtube_mapping.txt` beside it, if it is there, says which clip is which:

    -4wsuPCjDBc_5_15 vid7

and the clip is at DIR/-4wsuPCjDBc_5_15.avi, or else at DIR/vid7.avi; another suffix will do. The file is one split's; --split says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_name, files_by_stem, read_lines, wrong_layout
from data_tools.sources.msrvtt_qa import questions_by_video
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_NAMES = "youtube_mapping.txt"


@dataclass(frozen=True)
class MsvdQaSource:
    split: Split

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and what is read beside it."""
        return [annotation, annotation.parent / _NAMES]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        names = _mapping(annotation.parent / _NAMES)
        files = files_by_stem(media)
        for number, questions in questions_by_video(annotation, "msvd_qa").items():
            key = f"vid{number}"
            name = names.get(key, key)
            file = files.get(name) or files.get(key) or media / f"{name}.avi"
            record = Record(questions=tuple(questions), attributes={})
            yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=name, media=MediaPlace(path=file), record=record)


def _mapping(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    try:
        for number, line in enumerate(read_lines(path) if path.exists() else (), 1):
            if line.strip():
                words = line.split()
                if len(words) != 2:
                    raise ValueError(f"line {number} has {len(words)} words, not 2")
                names[words[1]] = as_name(words[0])
    except ValueError as error:
        raise wrong_layout(path, "msvd_qa", error) from None
    return names
