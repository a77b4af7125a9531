"""DALI pipelines as pure functions of their inputs: nothing in them reads, orders or draws. The only place that imports DALI."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from torch.utils.dlpack import from_dlpack

BATCH = 16
"""Most items of a call, which bounds the memory."""


_built: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []


def _keep_inherited() -> None:
    """A forked process has its parent's pipelines without their threads: to free one ends the process with a segmentation fault."""
    _inherited.extend(_built)


os.register_at_fork(after_in_child=_keep_inherited)


class Source(StrEnum):
    """What a graph is given."""

    PICTURE = "picture"
    """The bytes of a picture."""
    CLIP = "clip"
    """The bytes of a clip, and which of its frames."""
    FRAMES = "frames"
    """Decoded frames, [T, H, W, 3] uint8."""


@dataclass(frozen=True, kw_only=True)
class Item:
    content: NDArray[np.uint8]
    frames: NDArray[np.int32]
    """Of a clip; else empty."""
    start: NDArray[np.int32]
    """Upper and left edge of the part that is shown, in pixels."""
    end: NDArray[np.int32]
    """Lower and right edge."""
    flip: bool


class Graph:
    """Decode, crop, resize, flip. Every process has to build its own."""

    def __init__(self, source: Source, resolution: int, *, gpu: bool) -> None:
        self._source = source
        self._pipeline = Pipeline(
            batch_size=BATCH,
            num_threads=min(BATCH, len(os.sched_getaffinity(0))) if gpu else 1,  # on a CPU, workers decode side by side already
            device_id=torch.cuda.current_device() if gpu else None,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        with self._pipeline:
            self._pipeline.set_outputs(_squares(source, resolution, gpu=gpu))
        self._pipeline.build()
        _built.add(self._pipeline)

    def __call__(self, items: Sequence[Item]) -> list[torch.Tensor]:
        """[T, R, R, 3] uint8 for each of up to BATCH items. Raises RuntimeError where one is bad; the graph is then of no further use."""
        self._feed("content", [item.content for item in items])
        self._feed("start", [item.start for item in items])
        self._feed("end", [item.end for item in items])
        self._feed("flip", [np.int32(item.flip) for item in items])
        if self._source is Source.CLIP:
            self._feed("frames", [item.frames for item in items])
        (squares,) = self._pipeline.run()
        tensors = [from_dlpack(squares[place]).clone() for place in range(len(items))]  # the buffers are the graph's
        if tensors and tensors[0].is_cuda:
            torch.cuda.current_stream().synchronize()  # the copies are only queued, and the next run may write into the buffers
        return [tensor.unsqueeze(0) if tensor.ndim == 3 else tensor for tensor in tensors]

    def _feed(self, name: str, values: Sequence[Any]) -> None:
        self._pipeline.feed_input(name, list(values))


def _squares(source: Source, resolution: int, *, gpu: bool) -> Any:
    decoders = "mixed" if gpu else "cpu"
    if source is Source.FRAMES:
        pixels = fn.external_source(name="content", dtype=types.UINT8, ndim=4, layout="FHWC")
        pixels = pixels.gpu() if gpu else pixels
    else:
        content = fn.external_source(name="content", dtype=types.UINT8, ndim=1)
        if source is Source.CLIP:
            frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
            pixels = fn.decoders.video(
                content,
                device=decoders,
                frames=frames,
                affine=False,  # else every graph's threads are bound to the same first cores, the trainer's too
                pad_mode="none",  # a frame that is not there is an error, not a black picture
            )
        else:
            pixels = fn.decoders.image(
                content, device=decoders, output_type=types.RGB, jpeg_fancy_upsampling=True, adjust_orientation=False
            )
    edges = {name: fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in ("start", "end")}
    resized = fn.resize(
        fn.slice(pixels, **edges, axis_names="HW"),
        size=[resolution, resolution],
        interp_type=types.INTERP_CUBIC,
        antialias=True,  # as PIL's bicubic filter, and torch's
    )
    return fn.flip(resized, horizontal=fn.external_source(name="flip", dtype=types.INT32, ndim=0))
