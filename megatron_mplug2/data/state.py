"""All that a resume needs to go on in the data: a step, what the data are, and the substitutions that a repetition might not find again."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.config.data import DatasetConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import FolderFacts
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Substitution
from megatron_mplug2.errors import UserError


class DatasetState(BaseModel):
    """What one dataset of a stream is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    """Where it lay: a name for messages. It may be moved."""
    samples: int
    index_sha256: str
    fingerprint: str
    """Of its manifest, and so of all contents."""
    weight: float | None
    repeat: int

    @staticmethod
    def of(facts: FolderFacts, dataset: DatasetConfig) -> "DatasetState":
        return DatasetState(
            folder=dataset.folder,
            samples=facts.samples,
            index_sha256=facts.index_sha256,
            fingerprint=facts.fingerprint,
            weight=dataset.weight,
            repeat=dataset.repeat,
        )


Datasets = dict[Task, tuple[DatasetState, ...]]


class DataState(BaseModel):
    """JSON through `model_dump(mode="json")` and `model_validate`. The same on every rank if ranks agree on substitutions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=0)
    """Steps whose samples were consumed."""
    datasets: Datasets
    """Of each stream in the schedule, in order."""
    vocabulary: str
    """Fingerprint of the vocabulary."""
    substituted: int = Field(default=0, ge=0)
    """Samples that were substituted in these steps."""
    substitutions: tuple[Substitution, ...] = ()
    """Those where storage was at fault; bad content is found again."""


def check_same_data(state: DataState, datasets: Mapping[Task, Sequence[DatasetState]], vocabulary: str) -> None:
    """Raises UserError naming every difference from what the checkpoint was trained on."""
    streams = ((f"data.{Split.TRAIN}.{task}", state.datasets.get(task, ()), now) for task, now in datasets.items())
    changes = [change for stream in streams for change in _changes(*stream)]
    if state.vocabulary != vocabulary:
        changes.append("data.vocab: another vocabulary")
    if changes:
        raise UserError(
            f"cannot go on from step {state.steps}, the data are not those of the checkpoint: {'; '.join(changes)}. "
            "Put them back, or start a new run in another run_dir"
        )


def _changes(key: str, before: Sequence[DatasetState], now: Sequence[DatasetState]) -> Iterator[str]:
    known, found = [one.fingerprint for one in before], [one.fingerprint for one in now]
    if len(known) != len(found):
        missing = [f"{one.folder} is missing" for one in before if one.fingerprint not in found]
        new = [f"{one.folder} is new" for one in now if one.fingerprint not in known]
        yield f"{key}: {len(known)} datasets -> {len(found)} ({', '.join(missing + new) or 'one of them twice'})"
    elif known != found and set(known) == set(found):
        yield f"{key}: the same datasets in another order, {', '.join(one.folder for one in before)} in the checkpoint"
    else:
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from _dataset_changes(f"{key}.{number} ({pair[1].folder})", *pair)


def _dataset_changes(name: str, before: DatasetState, now: DatasetState) -> Iterator[str]:
    if before.samples != now.samples:
        yield f"{name}: samples {before.samples} -> {now.samples}"
    elif before.index_sha256 != now.index_sha256:
        yield f"{name}: as many samples, but another index"
    elif before.fingerprint != now.fingerprint:
        yield f"{name}: the same index, but other tars"
    if before.weight != now.weight:
        yield f"{name}: weight {before.weight} -> {now.weight}"
    if before.repeat != now.repeat:
        yield f"{name}: repeat {before.repeat} -> {now.repeat}"
