"""Moments of a rank's work: on a GPU of its stream, which the host runs ahead of, else of the host."""

import time

import torch

from megatron_mplug2.parallel.device import on_gpu


class Mark:
    """The moment when it is made. On a GPU: when all work that was queued before is done; making it does not wait."""

    def __init__(self) -> None:
        self._host = time.perf_counter()
        self._event = torch.cuda.Event(enable_timing=True) if on_gpu() else None
        if self._event is not None:
            self._event.record()

    def seconds_to(self, later: "Mark") -> float:
        """On a GPU this waits until the later moment has come."""
        if self._event is None or later._event is None:
            return later._host - self._host
        later._event.synchronize()
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1000
