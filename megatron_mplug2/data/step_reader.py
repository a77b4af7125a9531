"""Builds a rank's part of a step, with substitutes for bad samples. This is what worker processes run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice

from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.assemble import pair_batch, text_batch, without_media
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.quarantine import BadSample, Failure, candidates
from megatron_mplug2.data.sampler import Order, Part
from megatron_mplug2.data.samples import Augmentation, PairSample, Picture, SampleReader, TextSample
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Fault, Substitution, Substitutions
from megatron_mplug2.data.watch import LostDecoder, SampleInWork, Watch
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

    def load(self, planned: PlannedStep, recorded: Recorded, watch: Watch) -> LoadedStep:
        """Raises UserError where a bad sample has no substitute."""
        stream = self._streams[planned.task]
        positions = self._part.positions(planned.stream_position).ravel()
        drawn = stream.order.at(positions)
        texts: list[TextSample] = []
        pairs: list[PairSample] = []
        substitutions: list[Substitution] = []
        for position, epoch, index in zip(positions.tolist(), drawn.epochs.tolist(), drawn.indices.tolist(), strict=True):
            sample, substitution = self._at(stream, planned, position, epoch, index, recorded.get((planned.task, position)), watch)
            if isinstance(sample, TextSample):
                texts.append(sample)
            else:
                pairs.append(sample)
            if substitution:
                substitutions.append(substitution)
        batch = text_batch(texts) if texts else pair_batch(planned.task, pairs)
        return LoadedStep(batch=without_media(batch) if self._media is MediaUse.CHECK else batch, substitutions=tuple(substitutions))

    def _at(
        self, stream: Stream, planned: PlannedStep, position: int, epoch: int, index: int, recorded: Substitution | None, watch: Watch
    ) -> tuple[TextSample | PairSample, Substitution | None]:
        """The sample of a position, or the first candidate in its place that is good and not before the recorded one."""
        training, first = self._training, recorded.attempt if recorded else 0
        failures = [Failure(fault=recorded.fault, reason=recorded.reason)] if recorded else []
        substitutes = candidates(
            stream.order,
            seed=training.seed,
            task=stream.task,
            start=planned.stream_position,
            global_batch=training.global_batch,
            position=position,
        )
        for attempt, candidate in islice(enumerate(chain([index], substitutes)), first, None):
            draws = SampleDraws(seed=training.seed, task=stream.task, epoch=epoch, index=candidate)
            sample = self._read(stream, planned, draws, position, watch)
            if not isinstance(sample, Failure):
                return sample, _substitution(stream, position, index, failures, attempt, candidate) if attempt else None
            failures.append(sample)
        raise UserError(
            f"{stream.manifest.entry(index).key} of data.{stream.split}.{stream.task} is bad ({failures[0].reason}), and so are all "
            f"{len(failures) - 1} samples tried in its place ({failures[-1].reason}): check the corpus and its storage"
        )

    def _read(
        self, stream: Stream, planned: PlannedStep, draws: SampleDraws, position: int, watch: Watch
    ) -> TextSample | PairSample | Failure:
        picture = Picture(frames=planned.phase.frames, resolution=planned.phase.resolution, augmentation=self._augmentation)
        try:
            with watch.working_on(in_work(stream.manifest, stream.task, draws.index, position)):
                if stream.task is Task.TEXT:
                    return self._samples.text(stream.manifest, draws)
                return self._samples.pair(stream.manifest, None if self._media is MediaUse.LEAVE else picture, draws)
        except BadSample as error:
            return Failure(fault=Fault.CONTENT, reason=str(error))
        except (OSError, LostDecoder) as error:
            return Failure(fault=Fault.STORAGE, reason=str(error))


def in_work(manifest: Manifest, task: Task, index: int, position: int) -> SampleInWork:
    return SampleInWork(task=task, dataset=manifest.place(index).dataset, key=manifest.entry(index).key, index=index, position=position)


def _substitution(stream: Stream, position: int, index: int, failures: Sequence[Failure], attempt: int, substitute: int) -> Substitution:
    place = stream.manifest.place(index)
    return Substitution(
        split=stream.split,
        task=stream.task,
        corpus=stream.manifest.fingerprint,
        dataset=place.dataset,
        shard=place.shard,
        position=position,
        index=index,
        key=stream.manifest.entry(index).key,
        fault=Fault.STORAGE if any(failure.fault is Fault.STORAGE for failure in failures) else Fault.CONTENT,
        reason=failures[0].reason,
        attempt=attempt,
        substitute=substitute,
    )
