"""Steps as all ranks agree on them: read ahead by workers, then the same substitutions everywhere, each written down once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from megatron_mplug2.config.schema import RunConfig, Task
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.mixture import PlannedStep
from megatron_mplug2.data.sampler import Part
from megatron_mplug2.data.samples import Augmentation, SampleReader
from megatron_mplug2.data.step_reader import LoadedStep, MediaUse, Recorded, StepReader, Stream
from megatron_mplug2.data.substitution import Agree, Substitution, Substitutions, settled
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.workers import Workers
from megatron_mplug2.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A rank as one that reads data."""

    data_rank: int
    data_size: int
    needs_media: bool
    """Whether its stage has the vision encoder."""
    agree: Agree | None
    """None where there is one rank; else every rank must give it, and all iterate together."""
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
    def media_use(self) -> MediaUse:
        if self.needs_media:
            return MediaUse.HAND_OUT
        return MediaUse.CHECK if self.agree is None else MediaUse.LEAVE


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
        )
        self._workers = Workers(self._load, steps, count=config.data.workers, ahead=config.data.prefetch)

    def __iter__(self) -> Iterator[tuple[PlannedStep, SettledStep]]:
        """Raises UserError where a bad sample has no substitute, or ranks cannot read what others could."""
        for step, loaded in zip(self._steps, self._workers, strict=True):
            planned = self._plan(step)
            settled_step = self._settle(planned, loaded)
            if self._reader.ledger:
                self._reader.ledger.write(settled_step.substitutions)
            yield planned, settled_step

    def close(self) -> None:
        self._workers.close()

    def _load(self, step: int) -> LoadedStep:
        return self._step_reader.load(self._plan(step), self._recorded)

    def _settle(self, planned: PlannedStep, loaded: LoadedStep) -> SettledStep:
        if self._reader.agree is None:
            return SettledStep(loaded=loaded, substitutions=loaded.substitutions)
        agreed = settled(self._reader.agree(loaded.substitutions))
        own = set(self._part.positions(planned.stream_position).ravel().tolist())
        wanted = {(planned.task, one.position): one for one in agreed if one.position in own}
        if _attempts(loaded.substitutions) != _attempts(wanted.values()):
            loaded = self._step_reader.load(planned, {**self._recorded, **wanted})
            if _attempts(loaded.substitutions) != _attempts(wanted.values()):
                raise UserError(
                    f"this rank cannot read samples of step {planned.step} that another rank could read: "
                    f"check that every node sees the shards of data.*.{planned.task}"
                )
        return SettledStep(loaded=loaded, substitutions=agreed)


def _attempts(substitutions: Iterable[Substitution]) -> set[tuple[int, int]]:
    return {(one.position, one.attempt) for one in substitutions}
