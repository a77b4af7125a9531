"""Builds a rank's part of a step, with substitutes for bad samples. This is what worker processes run."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.assemble import Stack, pair_batch, text_batch
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.decoding.choice import open_decoder
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.quarantine import RETRY_PAUSES_S, BadSample, Failure, candidates, tried_once
from megatron_mplug2.data.sampler import Order, Part
from megatron_mplug2.data.samples import Augmentation, PairSample, Picture, SampleReader, TextSample
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault, Substitution, Substitutions
from megatron_mplug2.data.watch import LostDecoder, Watch
from megatron_mplug2.data.watched_decoding import NamedRequest, decoded_by_name, in_work
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of a split in the order that it is read in."""

    split: Split
    task: Task
    manifest: Manifest
    order: Order


class MediaUse(StrEnum):
    """What a rank does with pictures and clips."""

    HAND_OUT = "hand_out"
    CHECK = "check"
    """Decode them only to find bad ones: no other rank would tell."""
    LEAVE = "leave"
    """Other ranks decode them and tell which are bad."""


@dataclass(frozen=True, kw_only=True)
class LoadedStep:
    """A rank's samples of a step as one batch, microbatch after microbatch."""

    batch: Batch
    substitutions: Substitutions
    """Those of this rank's samples."""


Recorded = Mapping[tuple[Task, int], Substitution]
"""Substitutions to repeat, by task and position."""


@dataclass(kw_only=True)
class _Seat:
    """A place in the batch: candidates for its position are tried until one is good."""

    position: int
    index: int
    """What the order has there."""
    tries: Iterator[tuple[int, SampleDraws]]
    """Attempts with their candidates."""
    failures: list[Failure]
    attempt: int = 0
    draws: SampleDraws | None = None
    """Those of the attempt's candidate."""
    read: TextSample | PairSample | Failure | None = None
    """What the attempt gave."""
    sample: TextSample | PairSample | None = None
    """What was read and not found bad since."""
    media: torch.Tensor | None = None


class StepReader:
    def __init__(
        self,
        config: RunConfig,
        *,
        samples: SampleReader,
        streams: Mapping[Task, Stream],
        part: Part,
        media: MediaUse,
        augmentation: Augmentation,
        stack: Stack,
    ) -> None:
        self._stack = stack
        self._training = config.training
        self._pictures = config.pictures
        self._samples = samples
        self._streams = streams
        self._part = part
        self._media = media
        self._augmentation = augmentation
        self._told = False
        self._decoder = open_decoder(config.data)

    def load(self, planned: PlannedStep, recorded: Recorded, watch: Watch) -> LoadedStep:
        """All good samples are decoded together, then the substitutes of the bad ones, until none is left.

        Raises UserError where a bad sample has no substitute.
        """
        stream = self._streams[planned.task]
        positions = self._part.positions(planned.stream_position).ravel()
        drawn = stream.order.at(positions)
        seats = [
            self._seat(stream, planned, position, epoch, index, recorded.get((planned.task, position)))
            for position, epoch, index in zip(positions.tolist(), drawn.epochs.tolist(), drawn.indices.tolist(), strict=True)
        ]
        empty = seats
        while empty:
            self._read_candidates(stream, planned, empty, watch)
            self._decode(stream, [seat for seat in empty if seat.sample], watch)
            empty = [seat for seat in empty if seat.sample is None]
        return LoadedStep(
            batch=self._batch(planned.task, seats),
            substitutions=tuple(_substitution(stream, seat) for seat in seats if seat.attempt),
        )

    def _seat(self, stream: Stream, planned: PlannedStep, position: int, epoch: int, index: int, recorded: Substitution | None) -> _Seat:
        training = self._training
        substitutes = candidates(
            stream.order,
            seed=training.seed,
            task=stream.task,
            start=planned.stream_position,
            global_batch=training.global_batch,
            position=position,
        )
        tries = (
            (attempt, SampleDraws(seed=training.seed, task=stream.task, epoch=epoch, index=candidate))
            for attempt, candidate in enumerate(chain([index], substitutes))
        )
        return _Seat(
            position=position,
            index=index,
            tries=islice(tries, recorded.attempt if recorded else 0, None),
            failures=[Failure(fault=recorded.fault, reason=recorded.reason)] if recorded else [],
        )

    def _read_candidates(self, stream: Stream, planned: PlannedStep, seats: Sequence[_Seat], watch: Watch) -> None:
        """Reads each seat's next candidate; without a sample afterwards where that is bad. Raises UserError where there is none left.

        What the storage fails is tried again after pauses that all seats share: a storage that is away costs a step no more than a sample.
        """
        for seat in seats:
            self._next_candidate(stream, seat)
        failed = [seat for seat in seats if not self._read(stream, planned, seat, watch)]
        for pause in RETRY_PAUSES_S if failed else ():
            time.sleep(pause)
            failed = [seat for seat in failed if not self._read(stream, planned, seat, watch)]
        for seat in seats:
            if not isinstance(seat.read, Failure):
                seat.sample = seat.read
                continue
            seat.failures.append(seat.read)
            if seat.read.fault is Fault.STORAGE:
                self._tell(seat.read.reason)

    def _next_candidate(self, stream: Stream, seat: _Seat) -> None:
        tried = next(seat.tries, None)
        if tried is None:
            raise UserError(
                f"{stream.manifest.entry(seat.index).key} of data.{stream.split}.{stream.task} is bad ({seat.failures[0].reason}), "
                f"and so are all {len(seat.failures) - 1} samples tried in its place ({seat.failures[-1].reason}): "
                "check the corpus and its storage"
            )
        seat.attempt, seat.draws = tried

    def _decode(self, stream: Stream, seats: Sequence[_Seat], watch: Watch) -> None:
        """Gives the seats their media, and takes the samples from those whose media are bad."""
        asked = [
            (seat, NamedRequest(sample=in_work(stream.manifest, stream.task, seat.sample.index, seat.position), media=seat.sample.media))
            for seat in seats
            if isinstance(seat.sample, PairSample) and seat.sample.media
        ]
        answers = decoded_by_name(self._decoder, [request for _, request in asked], watch)
        for (seat, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, torch.Tensor):
                seat.media = answer
            else:
                fault = Fault.CONTENT if isinstance(answer, BadMedia) else Fault.STORAGE
                seat.failures.append(Failure(fault=fault, reason=str(answer)))
                seat.sample = None

    def _read(self, stream: Stream, planned: PlannedStep, seat: _Seat, watch: Watch) -> bool:
        """One try. False where the storage failed."""
        assert seat.draws is not None
        try:
            with tried_once(), watch.working_on(in_work(stream.manifest, stream.task, seat.draws.index, seat.position)):
                seat.read = self._sample(stream, planned, seat.draws)
        except BadSample as error:
            seat.read = Failure(fault=Fault.CONTENT, reason=str(error))
        except (OSError, LostDecoder) as error:
            seat.read = Failure(fault=Fault.STORAGE, reason=str(error))
            return isinstance(error, LostDecoder)
        return True

    def _sample(self, stream: Stream, planned: PlannedStep, draws: SampleDraws) -> TextSample | PairSample:
        if stream.task is Task.TEXT:
            return self._samples.text(stream.manifest, draws)
        picture = Picture(
            frames=planned.phase.frames,
            resolution=planned.phase.resolution,
            augmentation=self._augmentation,
            pictures=self._pictures,
        )
        return self._samples.pair(stream.manifest, picture, draws, needs_media=self._media is not MediaUse.LEAVE)

    def _tell(self, reason: str) -> None:
        """Once a process: a storage that is away makes a step last, since every read is tried again, and nothing else would say why."""
        if not self._told:
            print(f"data: {reason}: it was tried again in vain, and another sample takes its place", file=sys.stderr, flush=True)
        self._told = True

    def _batch(self, task: Task, seats: Sequence[_Seat]) -> Batch:
        if task is Task.TEXT:
            return text_batch([seat.sample for seat in seats if isinstance(seat.sample, TextSample)])
        pairs = [seat.sample for seat in seats if isinstance(seat.sample, PairSample)]
        handed_out = seats if self._media is MediaUse.HAND_OUT else ()
        return pair_batch(task, pairs, [seat.media for seat in handed_out if seat.media is not None], self._stack)


def _substitution(stream: Stream, seat: _Seat) -> Substitution:
    assert seat.sample is not None
    place = stream.manifest.place(seat.index)
    return Substitution(
        split=stream.split,
        task=stream.task,
        corpus=stream.manifest.fingerprint,
        dataset=place.dataset,
        shard=place.shard,
        position=seat.position,
        index=seat.index,
        key=stream.manifest.entry(seat.index).key,
        fault=Fault.STORAGE if any(failure.fault is Fault.STORAGE for failure in seat.failures) else Fault.CONTENT,
        reason=seat.failures[0].reason,
        attempt=seat.attempt,
        substitute=seat.sample.index,
    )
