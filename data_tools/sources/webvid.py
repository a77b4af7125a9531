"""WebVid: ANNOTATION is `results_2M_train.csv` or the like, --media the folder of its clips.

    videoid,contentUrl,duration,page_dir,name
    1000000,https://.../a.mp4,PT00H00M16S,000001_000050,a young man waves at his laptop

"name" is the caption. A clip is at DIR/page_dir/videoid.mp4, or else at DIR/videoid.mp4, or else at DIR under the name its URL ends in.
The file is one split's; --split says which. Other columns are passed over.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import as_text, file_in, file_of_url, first_there, read_rows, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record


@dataclass(frozen=True)
class WebvidSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        try:
            for row in read_rows(annotation):
                key = as_text(row["videoid"], "a videoid")
                record = Record(captions=(as_text(row["name"], f"the name of {key}"),), attributes={})
                url = as_text(row["contentUrl"], f"the contentUrl of {key}")
                page = file_in(media, as_text(row["page_dir"], f"the page_dir of {key}"))
                file = first_there(file_in(page, f"{key}.mp4"), file_in(media, f"{key}.mp4"), file_of_url(media, url, f"{key}.mp4"))
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise wrong_layout(annotation, "webvid", error) from None
