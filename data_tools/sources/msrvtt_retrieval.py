"""MSR-VTT's splits for retrieval: ANNOTATION is `MSRVTT_train.9k.csv` or `MSRVTT_train.7k.csv`, --media the folder of all clips.

    video_id                                    MSRVTT_train.9k.csv and MSRVTT_train.7k.csv: which clips are trained on
    video0

    key,vid_key,video_id,sentence               MSRVTT_JSFUSION_test.csv: the test of 1,000 clips ("1k-A"), one sentence each
    ret0,msr9770,video9770,a person is connecting something to system

`MSRVTT_JSFUSION_test.csv` and `MSRVTT_data.json` (or `videodatainfo.json`), which has the training clips' captions in the layout of
`msrvtt`, are beside it. The splits are train and test.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_name, as_text, files_by_stem, first_there, read_json, read_rows, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


class MsrvttRetrievalSource:
    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and what is read beside it: the captions and the test."""
        folder = annotation.parent
        return [annotation, first_there(folder / "MSRVTT_data.json", folder / "videodatainfo.json"), folder / "MSRVTT_JSFUSION_test.csv"]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        files = files_by_stem(media)
        _, of_captions, of_test = self.files(annotation, media)
        trained = [row["video_id"] for row in _rows(annotation, "video_id")]
        captions = _captions(of_captions)
        for key in trained:
            yield _sample(Split.TRAIN, key, captions.get(key, []), files, media)
        for row in _rows(of_test, "video_id", "sentence"):
            yield _sample(Split.TEST, row["video_id"], [row["sentence"]], files, media)


def _sample(split: Split, key: str, captions: list[str], files: dict[str, Path], media: Path) -> Sample:
    record = Record(captions=tuple(captions), attributes={})
    file = files.get(key) or media / f"{key}.mp4"
    return Sample(split=split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    try:
        for row in read_rows(path):
            as_name(row["video_id"])
            yield {column: as_text(row[column], f"the {column} of {row['video_id']}") for column in columns}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise wrong_layout(path, "msrvtt_retrieval", error) from None


def _captions(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    fields: Any = read_json(path)
    try:
        for sentence in fields["sentences"]:
            said = as_text(sentence["caption"], f"a caption of {sentence['video_id']}")
            captions.setdefault(sentence["video_id"], []).append(said)
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_layout(path, "msrvtt_retrieval", error) from None
    return captions
