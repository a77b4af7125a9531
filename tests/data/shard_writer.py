"""Folders of shards from samples at hand, through the code that `mplug2 data shard` writes them with."""

from pathlib import Path

import numpy as np

from data_tools.sample import Sample
from data_tools.splits import Split
from data_tools.stages.part import Part
from data_tools.stages.rows import TarRows, join_rows, row_of
from data_tools.stages.shard_texts import KINDS, ShardTexts
from data_tools.stages.tar_writer import TEXTS, TarWriter, ending, member_key
from data_tools.stages.work_folder import WorkFolder
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record

FACTS = MediaFacts(codec="h264", width=64, height=48, frames=25, fps=25.0, duration_s=1.0, variable_rate=True)


class ShardWriter:
    """A stream's folder, in the order of `add`; `close` makes it readable."""

    def __init__(self, folder: Path, kind: MediaKind, samples_a_tar: int = 10_000) -> None:
        self._folder = folder
        self._stream = next(stream for stream, its in KINDS.items() if its is kind)
        self._samples_a_tar = samples_a_tar
        self._samples: list[tuple[str, str, bytes, ShardTexts]] = []

    def add(self, key: str, suffix: str, media: bytes, record: Record, meaning: str | None) -> None:
        """`suffix` is that of the media's file (".jpg")."""
        self._samples.append((key, suffix, media, ShardTexts(record=record, stream=self._stream, meaning=meaning)))

    def close(self) -> None:
        folder = WorkFolder(self._folder, Part())
        with folder.begun({}):
            tars = range(0, len(self._samples), self._samples_a_tar)
            join_rows(folder, [self._write(folder, number, first) for number, first in enumerate(tars)], self._folder)

    def _write(self, folder: WorkFolder, number: int, first: int) -> Path:
        rows, path = [], self._folder / f"{number:06d}.tar"
        with folder.whole_file(path) as file:
            tar = TarWriter(file)
            for place, (key, suffix, media, texts) in enumerate(self._samples[first : first + self._samples_a_tar], first):
                name = member_key(place, Sample(split=Split.TRAIN, stream=self._stream, key=key, media=None, record=texts.record))
                record = tar.add(f"{name}.{TEXTS}", texts.to_json())
                stored = tar.add(f"{name}.{ending(suffix)}", media) if media else None
                facts = FACTS if media else None
                rows.append(row_of(key=name, shard=number, texts=texts, record=record, media=stored, second=None, facts=facts))
            shard = tar.close(path.name)
        file_of_rows = folder.work / "rows" / f"{number:06d}.json"
        TarRows(shard=shard, stream=self._stream).write(folder, file_of_rows, np.array(rows))
        return file_of_rows
