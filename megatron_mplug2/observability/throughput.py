"""Rates over the recent past."""

import time
from collections import deque

WINDOW = 50


class Throughput:
    """Things a second (samples, steps) over the last `WINDOW` updates."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=WINDOW + 1)

    def add(self, count: int) -> None:
        self._marks.append((time.monotonic(), self._marks[-1][1] + count))

    @property
    def per_second(self) -> float:
        """0 before the first update."""
        (first_time, first_count), (last_time, last_count) = self._marks[0], self._marks[-1]
        return (last_count - first_count) / (last_time - first_time) if last_time > first_time else 0.0
