"""LSMDC: ANNOTATION is `LSMDC16_annos_training.csv` or the like, --media the folder of its clips.

    0001_American_Beauty_00.00.51.926-00.00.54.129<TAB>00.00.51.926<TAB>00.00.54.129<TAB>...<TAB>...<TAB>SOMEONE looks up.

The columns are the clip's name, its start and end in the film as aligned and as extracted, and the sentence, the last one. The clips are
cut already; sentences of one clip are gathered. A clip is at DIR/0001_American_Beauty/NAME.avi, or else at DIR/NAME.avi, or there as
.mp4. The file is one split's; --split says which.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import file_in, first_there, read_tabs, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_COLUMNS = 6


@dataclass(frozen=True)
class LsmdcSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        captions: dict[str, list[str]] = {}
        try:
            for number, columns in read_tabs(annotation):
                if len(columns) != _COLUMNS:
                    raise ValueError(f"row {number} has {len(columns)} columns, not {_COLUMNS}")
                captions.setdefault(columns[0], []).append(columns[-1])
            for key, said in captions.items():
                record = Record(captions=tuple(said), attributes={})
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=_clip(media, key)), record=record)
        except (TypeError, ValueError) as error:
            raise wrong_layout(annotation, "lsmdc", error) from None


def _clip(media: Path, key: str) -> Path:
    film = key.rpartition("_")[0]
    return first_there(*(file_in(media, f"{folder}{key}{suffix}") for suffix in (".avi", ".mp4") for folder in (f"{film}/", "")))
