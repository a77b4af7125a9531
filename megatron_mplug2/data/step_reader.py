"""Builds a rank's part of a step, with substitutes for bad samples. This is what worker processes run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice

from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.assemble import pair_batch, text_batch, without_media
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.quarantine import BadSample, candidates
from megatron_mplug2.data.sampler import Order, Part
from megatron_mplug2.data.samples import Augmentation, PairSample, Picture, SampleReader, TextSample
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault, Substitution, Substitutions


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
    ) -> None:
        self._training = config.training
        self._samples = samples
        self._streams = streams
        self._part = part
        self._media = media
        self._augmentation = augmentation

    def load(self, planned: PlannedStep, recorded: Recorded) -> LoadedStep:
        """Raises UserError where a bad sample has no substitute."""
        stream = self._streams[planned.task]
        positions = self._part.positions(planned.stream_position).ravel()
        drawn = stream.order.at(positions)
        texts: list[TextSample] = []
        pairs: list[PairSample] = []
        substitutions: list[Substitution] = []
        for position, epoch, index in zip(positions.tolist(), drawn.epochs.tolist(), drawn.indices.tolist(), strict=True):
            sample, substitution = self._at(stream, planned, position, epoch, index, recorded.get((planned.task, position)))
            if isinstance(sample, TextSample):
                texts.append(sample)
            else:
                pairs.append(sample)
            if substitution:
                substitutions.append(substitution)
        batch = text_batch(texts) if texts else pair_batch(planned.task, pairs)
        return LoadedStep(batch=without_media(batch) if self._media is MediaUse.CHECK else batch, substitutions=tuple(substitutions))

    def _at(
        self, stream: Stream, planned: PlannedStep, position: int, epoch: int, index: int, recorded: Substitution | None
    ) -> tuple[TextSample | PairSample, Substitution | None]:
        """The sample of a position, or the first candidate in its place that is good and not before the recorded one."""
        substitutes = candidates(
            stream.order,
            seed=self._training.seed,
            task=stream.task,
            start=planned.stream_position,
            global_batch=self._training.global_batch,
            position=position,
        )
        first = recorded.attempt if recorded else 0
        reasons: list[tuple[Fault, str]] = [(recorded.fault, recorded.reason)] if recorded else []
        for attempt, candidate in enumerate(islice(chain([index], substitutes), first, None), start=first):
            try:
                sample = self._read(stream, planned, SampleDraws(seed=self._training.seed, task=stream.task, epoch=epoch, index=candidate))
            except BadSample as error:
                reasons.append((Fault.CONTENT, str(error)))
            except OSError as error:
                reasons.append((Fault.STORAGE, str(error)))
            else:
                break
        if not attempt:
            return sample, None
        return sample, Substitution(
            split=stream.split,
            task=stream.task,
            position=position,
            index=index,
            key=stream.manifest.entry(index).key,
            fault=Fault.STORAGE if any(fault is Fault.STORAGE for fault, _ in reasons) else Fault.CONTENT,
            reason=reasons[0][1],
            attempt=attempt,
            substitute=candidate,
        )

    def _read(self, stream: Stream, planned: PlannedStep, draws: SampleDraws) -> TextSample | PairSample:
        if stream.task is Task.TEXT:
            return self._samples.text(stream.manifest, draws)
        picture = Picture(frames=planned.phase.frames, resolution=planned.phase.resolution, augmentation=self._augmentation)
        return self._samples.pair(stream.manifest, stream.task, None if self._media is MediaUse.LEAVE else picture, draws)
