"""Steps as all ranks agree on them: read ahead, then the same substitutions everywhere, each written down once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from threading import Lock

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.parcel import stacked_on_arrival
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.data.read_ahead import start_reading
from megatron_mplug2.data.sampler import Part
from megatron_mplug2.data.samples import Augmentation, SampleReader
from megatron_mplug2.data.step_reader import LoadedStep, MediaUse, Recorded, StepReader, Stream
from megatron_mplug2.data.substitution import Substitution, Substitutions, settled
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.watch import Watch
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A rank as one that reads data."""

    data_rank: int
    data_size: int
    needs_media: bool
    """Whether its stage has the vision encoder."""
    peers: Peers | None
    """None where there is one rank; else every rank must give them, and all iterate together."""
    ledger: Ledger | None
    """On one rank only."""

    def part(self, config: RunConfig) -> Part:
        """Raises ValueError where the global batch cannot be dealt out evenly."""
        training = config.training
        microbatches, rest = divmod(training.global_batch, training.microbatch * self.data_size)
        if rest:
            raise ValueError(f"{training.global_batch} samples for {self.data_size} ranks in microbatches of {training.microbatch}")
        return Part(data_rank=self.data_rank, data_size=self.data_size, microbatches=microbatches, microbatch=training.microbatch)

    @property
    def reads(self) -> bool:
        """Whether it reads samples itself; else another tensor-parallel rank reads for it."""
        return self.peers is None or self.peers.leads

    @property
    def media_use(self) -> MediaUse:
        if self.needs_media:
            return MediaUse.HAND_OUT
        return MediaUse.CHECK if self.peers is None else MediaUse.LEAVE


@dataclass(frozen=True, kw_only=True)
class SettledStep:
    loaded: LoadedStep
    substitutions: Substitutions
    """Those of all ranks that agreed."""


class SettledSteps:
    """Iterates over planned steps. Close it, or read it to its end."""

    def __init__(
        self,
        config: RunConfig,
        reader: Reader,
        *,
        tokenizer: Tokenizer,
        streams: dict[Task, Stream],
        augmentation: Augmentation,
        recorded: Recorded,
        plan: Callable[[int], PlannedStep],
        steps: range,
    ) -> None:
        self._reader = reader
        self._part = reader.part(config)
        self._recorded = recorded
        self._plan = plan
        self._steps = steps
        self._step_reader = StepReader(
            config,
            samples=SampleReader(config, tokenizer),
            streams=streams,
            part=self._part,
            media=reader.media_use,
            augmentation=augmentation,
            stack=stacked_on_arrival if config.data.workers else _stacked,
        )
        self._data = config.data
        self._one_at_a_time = Lock()
        """For the step reader, which is no thread's own where a thread reads ahead."""
        self._ahead = start_reading(partial(self._load, recorded), steps if reader.reads else range(0), self._data)

    def __iter__(self) -> Iterator[tuple[PlannedStep, SettledStep]]:
        """Raises UserError where a bad sample has no substitute, or ranks cannot read what others could; all ranks raise the same."""
        for step in self._steps:
            planned = self._plan(step)
            settled_step = self._settled(planned)
            if self._reader.ledger:
                self._reader.ledger.write(settled_step.substitutions)
            yield planned, settled_step

    def close(self) -> None:
        self._ahead.close()

    def _load(self, recorded: Recorded, step: int, watch: Watch) -> LoadedStep:
        with self._one_at_a_time:
            return self._step_reader.load(self._plan(step), recorded, watch)

    def _settled(self, planned: PlannedStep) -> SettledStep:
        peers = self._reader.peers
        if peers is None:
            loaded = next(self._ahead)
            return SettledStep(loaded=loaded, substitutions=loaded.substitutions)
        read = _or_error(lambda: next(self._ahead)) if peers.leads else None
        found = peers.gather(read.substitutions if isinstance(read, LoadedStep) else read or ())
        agreed = settled(chain.from_iterable(found))
        if agreed and isinstance(read, LoadedStep):
            own = read
            read = _or_error(lambda: self._in_line(planned, own, agreed))
        if agreed:
            peers.gather(read if isinstance(read, UserError) else None)
        assert not isinstance(read, UserError)
        return SettledStep(loaded=_shared(peers, read), substitutions=agreed)

    def _in_line(self, planned: PlannedStep, loaded: LoadedStep, agreed: Substitutions) -> LoadedStep:
        """The rank's part of the step with the substitutions that all agreed on."""
        own = set(self._part.positions(planned.stream_position).ravel().tolist())
        wanted = {(planned.task, one.position): one for one in agreed if one.position in own}
        if _attempts(loaded.substitutions) == _attempts(wanted.values()):
            return loaded
        recorded = {**self._recorded, **wanted}
        with closing(start_reading(partial(self._load, recorded), [planned.step], self._data)) as again:
            loaded = next(again)
        if _attempts(loaded.substitutions) != _attempts(wanted.values()):
            raise UserError(
                f"a rank cannot read samples of step {planned.step} that another rank could read: "
                f"check that every node sees the shards of data.*.{planned.task}"
            )
        return loaded


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(tensors))


def _or_error(read: Callable[[], LoadedStep]) -> LoadedStep | UserError:
    try:
        return read()
    except UserError as error:
        return error


def _shared(peers: Peers, loaded: LoadedStep | None) -> LoadedStep:
    """The tensor group's step, on a rank that read it or on another."""
    media = None
    if loaded and isinstance(loaded.batch, PairBatch):
        media = loaded.batch.media
        loaded = replace(loaded, batch=replace(loaded.batch, media=None))
    step, media = peers.share(loaded, media)
    return replace(step, batch=replace(step.batch, media=media)) if isinstance(step.batch, PairBatch) else step


def _attempts(substitutions: Iterable[Substitution]) -> set[tuple[int, int]]:
    return {(one.position, one.attempt) for one in substitutions}
