"""Decoding under a watch: each sample is named while it is in work."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.decoding.contract import Decoded, Decoder
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.samples import MediaRequest, decoded
from megatron_mplug2.data.watch import LostDecoder, SampleInWork, Watch


def in_work(manifest: Manifest, task: Task, index: int, position: int) -> SampleInWork:
    return SampleInWork(task=task, dataset=manifest.place(index).dataset, key=manifest.entry(index).key, index=index, position=position)


@dataclass(frozen=True, kw_only=True)
class NamedRequest:
    sample: SampleInWork
    media: MediaRequest


def decoded_by_name(decoder: Decoder, requests: Sequence[NamedRequest], watch: Watch) -> list[Decoded | LostDecoder]:
    """The answers in the order of the requests. Where somebody watches, one sample is decoded at a time, so that the one that hangs or
    crashes the decoder is known; else they are decoded as batches."""
    if not watch.watched:
        return [*decoded(decoder, [request.media for request in requests])]
    return [_decoded(decoder, request, watch) for request in requests]


def _decoded(decoder: Decoder, request: NamedRequest, watch: Watch) -> Decoded | LostDecoder:
    try:
        with watch.working_on(request.sample):
            return decoded(decoder, [request.media])[0]
    except LostDecoder as lost:
        return lost
