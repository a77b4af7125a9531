"""The CUDA stream of a thread that decodes beside the training step. Nothing here does anything where there is no GPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import torch

from megatron_mplug2.parallel.device import on_gpu


class DecodingStream:
    """Keeps what a thread launches after decoding (copies out of DALI's buffers, augmentation) out of the training step's stream, in
    which it would wait for the steps that are queued there, and they for it.

    DALI hands its output over to the stream that is current in the thread. The thread waits on the host until that has run dry, so a
    tensor that is handed over is finished and the training stream waits for nothing. What is left to say is to the allocator: the tensor's
    memory, which belongs to the thread's stream, is in use on another one, and must not be given out again before that one is done with it.
    """

    def __init__(self) -> None:
        self._device = torch.cuda.current_device() if on_gpu() else None
        self._of_thread = threading.local()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In the thread that decodes, around its work. A new thread's device is the first GPU, whatever this rank's is."""
        if self._device is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream()):
            yield

    def _stream(self) -> torch.cuda.Stream:
        """The thread's, the same every time: torch hands out 32 in turn, and keeps the memory that is freed for the stream it was of."""
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream()
        stream: torch.cuda.Stream = self._of_thread.stream
        return stream

    def finish(self) -> None:
        """In the same thread: waits until all that it has launched is done."""
        if self._device is not None:
            torch.cuda.current_stream().synchronize()

    def hand_over(self, result: object) -> None:
        """In the thread that uses the result, a dataclass, before it does."""
        if self._device is not None:
            for tensor in _tensors(result):
                if tensor.is_cuda:
                    tensor.record_stream(torch.cuda.current_stream())


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
