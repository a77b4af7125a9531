"""TGIF: ANNOTATION is `tgif-v1.0.tsv`, --media the folder of the GIFs under the names their URLs end in.

    https://38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_mevmyaKtDf1rgvhr8o1_500.gif<TAB>a man is glaring ...

The descriptions of one GIF are gathered. The splits are in `splits/train.txt`, `splits/val.txt` and `splits/test.txt` beside it, a URL a
line; a GIF in none of them is passed over. Without the lists, --split says what the file is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import file_of_url, read_split_lists, read_tabs, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_LISTS = {Split.TRAIN: "splits/train.txt", Split.VALIDATION: "splits/val.txt", Split.TEST: "splits/test.txt"}


@dataclass(frozen=True)
class TgifSource:
    split: Split

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The annotation, and the lists of splits beside it."""
        return [annotation, *_lists(annotation).values()]

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        listed = read_split_lists(_lists(annotation))
        captions: dict[str, list[str]] = {}
        try:
            for number, columns in read_tabs(annotation):
                if len(columns) != 2 or "://" not in columns[0]:
                    raise ValueError(f"row {number} is not URL<TAB>DESCRIPTION")
                captions.setdefault(columns[0].strip(), []).append(columns[1])
            for url, said in captions.items():
                split = listed.get(url) if listed else self.split
                if split is not None:
                    file = file_of_url(media, url, "gif")
                    record = Record(captions=tuple(said), attributes={})
                    yield Sample(split=split, stream=Task.VIDEO_TEXT, key=file.stem, media=MediaPlace(path=file), record=record)
        except (TypeError, ValueError) as error:
            raise wrong_layout(annotation, "tgif", error) from None


def _lists(annotation: Path) -> dict[Split, Path]:
    return {split: annotation.parent / name for split, name in _LISTS.items()}
