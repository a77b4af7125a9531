"""Decodes with NVIDIA DALI what it decodes right, in batches, and the rest with PyAV and PIL; one graph crops and resizes both."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_mplug2.config.data import ResizeFilter
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.decoding.clips import chosen_frames, read_frames
from megatron_mplug2.data.decoding.contract import ClipRequest, Decoded, PictureRequest, Transform
from megatron_mplug2.data.decoding.pictures import read_picture
from megatron_mplug2.data.decoding.pixels import finished
from megatron_mplug2.data.decoding.plain import CPU_CODECS, GPU_CODECS, has_own_decoder, is_plain_clip, plain_picture_size
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.data.video_file import VideoFile

if TYPE_CHECKING:
    from megatron_mplug2.data.decoding.dali_graphs import Graph, Item, Source

Request = TypeVar("Request", PictureRequest, ClipRequest)

PREPARING = 4
"""Threads that look into files, where the decoder uses a GPU."""


@dataclass(frozen=True, kw_only=True)
class _Work(Generic[Request]):
    """A request in the form that a graph takes."""

    place: int
    request: Request
    source: "Source"
    item: "Item"


class DaliDecoder:
    """A `Decoder`. A process imports DALI and builds its graphs when it first decodes, also one that was forked."""

    def __init__(self, *, gpu: bool) -> None:
        self._gpu = gpu
        self._rest = PyavDecoder()
        self._graphs: dict[tuple[int, Source, int], Graph] = {}

    def pictures(self, requests: Sequence[PictureRequest]) -> list[Decoded]:
        return self._answers(requests, self._picture, self._rest.pictures)

    def clips(self, requests: Sequence[ClipRequest]) -> list[Decoded]:
        return self._answers(requests, self._clip, self._rest.clips)

    def _answers(
        self,
        requests: Sequence[Request],
        prepare: "Callable[[int, Request], _Work[Request] | Decoded]",
        rest: Callable[[Sequence[Request]], list[Decoded]],
    ) -> list[Decoded]:
        """A graph's batch runs as soon as it is full, on a GPU while threads prepare the next ones."""
        if not requests:
            return []
        from megatron_mplug2.data.decoding.dali_graphs import BATCH

        answers: list[Decoded] = [BadMedia("not decoded")] * len(requests)
        batches: dict[tuple[Source, int], list[_Work[Request]]] = {}

        def decode(batch: Sequence[_Work[Request]]) -> None:
            for work, answer in self._run(batch):
                answers[work.place] = self._beside(rest([work.request])[0]) if answer is None else answer

        for place, prepared in enumerate(self._prepared(requests, prepare)):
            if not isinstance(prepared, _Work):
                answers[place] = self._beside(prepared)
                continue
            key = prepared.source, prepared.request.transform.resolution
            batches.setdefault(key, []).append(prepared)
            if len(batches[key]) == BATCH:
                decode(batches.pop(key))
        for batch in batches.values():
            decode(batch)
        return answers

    def _prepared(
        self, requests: Sequence[Request], prepare: "Callable[[int, Request], _Work[Request] | Decoded]"
    ) -> "Iterator[_Work[Request] | Decoded]":
        """In the order of the requests. A process that decodes on the CPU has others beside it; the one that uses the GPU is alone."""

        def caught(place: int, request: Request) -> "_Work[Request] | Decoded":
            try:
                return prepare(place, request)
            except BadMedia as bad:
                return bad

        if not self._gpu or len(requests) == 1:
            yield from map(caught, range(len(requests)), requests)
            return
        with ThreadPoolExecutor(PREPARING, thread_name_prefix="prepare") as pool:
            yield from pool.map(caught, range(len(requests)), requests)

    def _beside(self, answer: Decoded) -> Decoded:
        """What PyAV decoded, on the device of DALI's answers: one batch is made of both."""
        return answer.cuda() if self._gpu and isinstance(answer, torch.Tensor) else answer

    def _picture(self, place: int, request: PictureRequest) -> "_Work[PictureRequest]":
        from megatron_mplug2.data.decoding.dali_graphs import Source

        size = plain_picture_size(request.data)
        if size:
            return _Work(place=place, request=request, source=Source.PICTURE, item=_coded(request.data, [], size, request.transform))
        return _Work(
            place=place, request=request, source=Source.FRAMES, item=_decoded([np.array(read_picture(request))], request.transform)
        )

    def _clip(self, place: int, request: ClipRequest) -> "_Work[ClipRequest] | Decoded":
        from megatron_mplug2.data.decoding.dali_graphs import Source

        if request.transform.resize is ResizeFilter.NEAREST:  # DALI's takes other pixels than torch's
            return self._rest.clips([request])[0]
        with VideoFile(request.data) as video:
            indices = chosen_frames(video, request)
            size = video.facts.width, video.facts.height
            plain = is_plain_clip(video, GPU_CODECS) and has_own_decoder(size[1]) if self._gpu else is_plain_clip(video, CPU_CODECS)
            if plain:
                return _Work(place=place, request=request, source=Source.CLIP, item=_coded(request.data, indices, size, request.transform))
            frames = read_frames(video, indices)
        if len({frame.shape for frame in frames}) > 1:  # joined of clips of several sizes; a graph takes one array
            return self._rest.clips([request])[0]
        return _Work(place=place, request=request, source=Source.FRAMES, item=_decoded(frames, request.transform))

    def _run(self, batch: "Sequence[_Work[Request]]") -> "Iterator[tuple[_Work[Request], torch.Tensor | None]]":
        """Those of one source and resolution, each with its tensor, or with None where DALI cannot decode it."""
        source, resolution = batch[0].source, batch[0].request.transform.resolution
        squares = self._squares(source, resolution, [work.item for work in batch])
        for work, square in zip(batch, squares, strict=True):
            yield work, None if square is None else finished(square.permute(0, 3, 1, 2), work.request.transform.operations)

    def _squares(self, source: "Source", resolution: int, items: "Sequence[Item]") -> list[torch.Tensor | None]:
        """DALI raises for a whole batch and does not say for which item: they are tried one by one then."""
        from megatron_mplug2.data.decoding.dali_graphs import Graph

        key = (os.getpid(), source, resolution)
        if key not in self._graphs:
            self._graphs[key] = Graph(source, resolution, gpu=self._gpu)
        try:
            return [*self._graphs[key](items)]
        except RuntimeError:
            del self._graphs[key]  # of no use after an error
            if len(items) == 1:
                return [None]
            return [square for item in items for square in self._squares(source, resolution, [item])]


def _coded(data: bytes, frames: Sequence[int], size: tuple[int, int], transform: Transform) -> "Item":
    return _item(np.frombuffer(data, np.uint8), frames, size, transform)


def _decoded(frames: Sequence[NDArray[np.uint8]], transform: Transform) -> "Item":
    content = np.stack(frames)
    return _item(content, (), (content.shape[2], content.shape[1]), transform)


def _item(content: NDArray[np.uint8], frames: Sequence[int], size: tuple[int, int], transform: Transform) -> "Item":
    """`size`: width and height in pixels."""
    from megatron_mplug2.data.decoding.dali_graphs import Item

    left, upper, right, lower = transform.view.box(*size)
    return Item(
        content=content,
        frames=np.array(frames, np.int32),
        start=np.array([upper, left], np.int32),
        end=np.array([lower, right], np.int32),
        flip=transform.view.flip,
    )
