"""What a report counts of a stream, over as many samples as there are."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.report.histogram import Histogram
from data_tools.report.words import WordCount
from data_tools.texts import texts_of
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record

_SIDES = (1, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_ASPECTS = (0.01, 0.25, 0.5, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.6, 1.9, 2.5, 4)
_SECONDS = (0.001, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800, 3600)
_RATES = (0.01, 5, 10, 14, 20, 24.5, 26, 31, 51, 61)
_FRAMES = (1, 2, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)
_WORDS = (1, 2, 4, 6, 8, 10, 12, 16, 24, 32, 64, 128, 512)
_MOST_CODECS = 100


class StreamTally:
    """Of a stream of a split. Facts come as rows of an index (`ROW`), texts as records."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.samples = 0
        self.media_bytes = 0
        self.records = 0
        """Samples whose texts were looked at."""
        self.texts = 0
        self.variable_rate = 0
        self.codecs: Counter[str] = Counter()
        self.words = WordCount()
        self._sides = Histogram("short side, pixels", _SIDES)
        self._aspects = Histogram("width / height", _ASPECTS)
        self._seconds = Histogram("seconds of a clip", _SECONDS)
        self._rates = Histogram("frames a second", _RATES)
        self._frames = Histogram("frames of a clip", _FRAMES)
        self._lengths = Histogram("words of a text" if task is Task.TEXT else "words of a caption", _WORDS)

    def add_rows(self, rows: NDArray[Any]) -> None:
        self.samples += len(rows)
        if self.task is Task.TEXT:
            return
        self.media_bytes += int(rows["media_size"].sum() + rows["second_size"].sum())
        names, counts = np.unique(rows["codec"], return_counts=True)
        for name, count in zip(names.tolist(), counts.tolist(), strict=True):
            known = name.decode(errors="replace") in self.codecs or len(self.codecs) < _MOST_CODECS
            self.codecs[(name.decode(errors="replace") or "not known") if known else "other"] += count
        width, height = rows["width"], rows["height"]
        self._sides.add(np.minimum(width, height))
        self._aspects.add(np.where(height > 0, width / np.maximum(height, 1), 0))
        if self.task is Task.VIDEO_TEXT:
            self._seconds.add(rows["duration_s"])
            self._rates.add(rows["fps"])
            self._frames.add(rows["frames"])
            self.variable_rate += int(rows["variable_rate"].sum())

    def add_record(self, record: Record) -> None:
        self.records += 1
        for text in filter(None, texts_of(record)):
            self.texts += 1
            self.words.add(str(text))
        shown = [record.text] if self.task is Task.TEXT else record.captions
        self._lengths.add(np.array([len(str(text).split()) for text in shown], np.int64))

    def histograms(self) -> Iterator[Histogram]:
        """Those that have something to show."""
        for histogram in (self._lengths, self._sides, self._aspects, self._seconds, self._rates, self._frames):
            if histogram.known:
                yield histogram
