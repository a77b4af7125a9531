"""Batches for evaluation: losses in the form of training, and every sample of a split once for retrieval, captions and questions."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.assemble import split_batch
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.decoding.choice import open_decoder
from megatron_mplug2.data.decoding.contract import Decoder
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.data.quarantine import BadSample, check_limit
from megatron_mplug2.data.read_ahead import start_reading
from megatron_mplug2.data.sampler import ManifestOrder
from megatron_mplug2.data.samples import Augmentation, MediaRequest, Picture, media_request, read_record
from megatron_mplug2.data.settled_steps import Reader, SettledSteps
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.step_reader import Stream
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.views import WHOLE, EvaluationView
from megatron_mplug2.data.watch import LostDecoder, Watch
from megatron_mplug2.data.watched_decoding import NamedRequest, decoded_by_name, in_work
from megatron_mplug2.errors import UserError


def last_phase(config: RunConfig, task: Task) -> PhaseConfig:
    """The phase whose frames and resolution an evaluation of the task takes. Raises UserError where the task is in none."""
    for phase in reversed(config.schedule):
        if phase.share(task) > 0:
            return phase
    raise UserError(f"no phase of the schedule has {task}, so there is nothing to evaluate it with: give schedule.0.{task} a share")


def validation_steps(
    config: RunConfig,
    task: Task,
    count: int,
    *,
    data_rank: int,
    data_size: int,
    needs_media: bool,
    peers: Peers | None = None,
    ledger: Ledger | None = None,
) -> Iterator[tuple[PlannedStep, list[Batch]]]:
    """`count` global batches of the validation split in the form of `Loader`, the same ones at every call: manifest order (from its
    beginning again where it ends), full view, middle frames, draws of epoch 0 on. Arguments and errors as `Loader`; the limit of bad
    samples is held against these batches alone: beyond it their losses are those of other samples."""
    phase = last_phase(config, task)
    manifest = open_stream(config.data, Split.VALIDATION, task)
    reader = Reader(data_rank=data_rank, data_size=data_size, needs_media=needs_media, peers=peers, ledger=ledger)
    batch = config.training.global_batch
    steps = SettledSteps(
        config,
        reader,
        tokenizer=Tokenizer(config.data.vocab, config.model.text.vocab_size),
        streams={task: Stream(split=Split.VALIDATION, task=task, manifest=manifest, order=ManifestOrder(len(manifest)))},
        augmentation=Augmentation.NONE,
        recorded={},
        plan=lambda step: PlannedStep(step=step, task=task, phase=phase, stream_position=step * batch),
        steps=range(count),
    )
    substituted = 0
    try:
        for planned, step in steps:
            substituted += len(step.substitutions)
            check_limit(
                Split.VALIDATION,
                substituted=substituted,
                seen=(planned.step + 1) * (batch if peers else batch // data_size),
                limit=config.data.bad_sample_limit,
                run_dir=config.run_dir,
            )
            yield planned, split_batch(step.loaded.batch, reader.part(config).microbatches)
    finally:
        steps.close()


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A sample that an evaluation had to do without."""

    index: int
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EvaluationBatch:
    """Up to `batch` samples of a split: full view and middle frames, or what another view has."""

    indices: torch.Tensor
    """[b] int64, in the manifest."""
    media: torch.Tensor
    """[b, 3, T, R, R] uint8; T=1 for pictures, 2 for pairs of them."""
    captions: torch.Tensor
    """[b, text_length] int64, first caption; `[CLS]` alone where there is none."""
    media_ids: torch.Tensor
    """[b] int64"""
    meaning_ids: torch.Tensor
    """[b] int64"""
    left_out: tuple[LeftOut, ...]
    """Samples that belong here but cannot be used."""


class Unreadable(StrEnum):
    """What becomes of a sample whose storage is at fault."""

    STOP = "stop"
    """The evaluation stops: its figures are to be of all samples."""
    LEAVE_OUT = "leave_out"
    """A training run goes on, as it does over bad samples of its own."""


def evaluation_batches(
    config: RunConfig,
    split: Split,
    task: Task,
    *,
    data_rank: int,
    data_size: int,
    batch: int,
    unreadable: Unreadable = Unreadable.STOP,
    view: EvaluationView = WHOLE,
) -> Iterator[EvaluationBatch]:
    """Every sample of a split of pictures or clips once, in manifest order, dealt to data-parallel ranks in turn; the last batch may be
    smaller. Frames and resolution are those of the last phase with the task.

    Raises UserError for unusable data and, if `unreadable` says so, where storage is at fault; ValueError for text.
    """
    if task is Task.TEXT:
        raise ValueError("text has no media to evaluate")
    phase = last_phase(config, task)
    read = _EvaluationReader(
        config=config,
        task=task,
        manifest=open_stream(config.data, split, task),
        tokenizer=Tokenizer(config.data.vocab, config.model.text.vocab_size),
        picture=Picture(
            frames=phase.frames if task is Task.VIDEO_TEXT else config.pictures,
            resolution=phase.resolution,
            augmentation=Augmentation.NONE,
            pictures=config.pictures,
            view=view,
        ),
        decoder=open_decoder(config.data),
        unreadable=unreadable,
    )
    mine = range(data_rank, len(read.manifest), data_size)
    batches = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    ahead = start_reading(read, batches, config.data)
    try:
        yield from ahead
    finally:
        ahead.close()


@dataclass(frozen=True, kw_only=True)
class _EvaluationReader:
    config: RunConfig
    task: Task
    manifest: Manifest
    tokenizer: Tokenizer
    picture: Picture
    decoder: Decoder
    unreadable: Unreadable

    def __call__(self, indices: range, watch: Watch) -> EvaluationBatch:
        read: list[tuple[int, str, NamedRequest]] = []
        left_out: dict[int, str] = {}
        for index in indices:
            sample = in_work(self.manifest, self.task, index, position=index)
            try:
                with watch.working_on(sample):
                    caption, media_asked = self._read(index)
                read.append((index, caption, NamedRequest(sample=sample, media=media_asked)))
            except (BadSample, LostDecoder) as error:
                left_out[index] = str(error)
            except OSError as error:
                if self.unreadable is Unreadable.LEAVE_OUT:
                    left_out[index] = str(error)
                    continue
                raise UserError(
                    f"sample {index} of data.*.{self.task} cannot be read ({error}): check its shards and their storage"
                ) from None
        kept: list[int] = []
        captions: list[NDArray[np.int64]] = []
        media: list[torch.Tensor] = []
        answers = decoded_by_name(self.decoder, [request for _, _, request in read], watch)
        for (index, caption, _), answer in zip(read, answers, strict=True):
            if not isinstance(answer, torch.Tensor):
                left_out[index] = str(answer)
            else:
                kept.append(index)
                captions.append(self.tokenizer.encode(caption, self.config.data.text_length))
                media.append(answer)
        entries = [self.manifest.entry(index) for index in kept]
        return EvaluationBatch(
            indices=torch.tensor(kept, dtype=torch.int64),
            media=torch.stack(media)
            if media
            else torch.empty(0, 3, self.picture.frames, *[self.picture.resolution] * 2, dtype=torch.uint8),
            captions=torch.from_numpy(np.array(captions, np.int64).reshape(len(kept), self.config.data.text_length)),
            media_ids=torch.tensor([entry.media_id for entry in entries], dtype=torch.int64),
            meaning_ids=torch.tensor([entry.meaning_id for entry in entries], dtype=torch.int64),
            left_out=tuple(
                LeftOut(index=index, key=self.manifest.entry(index).key, reason=reason) for index, reason in sorted(left_out.items())
            ),
        )

    def _read(self, index: int) -> tuple[str, MediaRequest]:
        """The first caption, and what is to be decoded."""
        draws = SampleDraws(seed=self.config.training.seed, task=self.task, epoch=0, index=index)
        record = read_record(self.manifest, index)
        request = media_request(self.manifest, self.picture, draws, self.config.data, record)
        return record.captions[0] if record.captions else "", request
