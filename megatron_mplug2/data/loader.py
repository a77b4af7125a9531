"""The loader: for each step of the plan, this rank's microbatches, in an order that no rank, worker or resume changes."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain
from multiprocessing.context import ForkProcess

import numpy as np

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.assemble import split_batch
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.interleave import training_order
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.mixture import PlannedStep, StepPlan
from megatron_mplug2.data.peers import Peers
from megatron_mplug2.data.quarantine import check_limit
from megatron_mplug2.data.sampler import Order
from megatron_mplug2.data.samples import Augmentation
from megatron_mplug2.data.settled_steps import Reader, SettledSteps
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.staging import start_staging
from megatron_mplug2.data.state import DatasetState, DataState, check_same_data
from megatron_mplug2.data.step_reader import Recorded, Stream
from megatron_mplug2.data.streams import open_streams
from megatron_mplug2.data.substitution import Fault, Substitution, Substitutions, settled
from megatron_mplug2.data.tokenizer import Tokenizer


class Loader:
    """Iterate once, or break off and iterate on. Each item is a planned step and the rank's microbatches of it, in order."""

    def __init__(
        self,
        config: RunConfig,
        split: Split,
        *,
        data_rank: int,
        data_size: int,
        needs_media: bool,
        start_step: int = 0,
        state: DataState | None = None,
        peers: Peers | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Opens the streams of the schedule's tasks; a collective if `peers` are given.

        `state`: of the checkpoint that the run goes on from, after `start_step` steps. `peers`: the ranks of the run,
        given on each of them or on none; without them every rank finds the same bad content by itself, but a fault of the storage
        that hits one rank alone would part tensor- and pipeline-parallel ranks. `ledger`: on one rank only.

        Raises UserError for unusable data or a vocabulary that doesn't fit, and where the data are not those of `state`.
        """
        if state and state.steps != start_step:
            raise ValueError(f"state after {state.steps} steps for a start at step {start_step}")
        self._config = config
        self._split = split
        self._reader = Reader(data_rank=data_rank, data_size=data_size, needs_media=needs_media, peers=peers, ledger=ledger)
        self._augmentation = Augmentation.DRAWN if split is Split.TRAIN else Augmentation.NONE
        self._plan = StepPlan(config.schedule, seed=config.training.seed, global_batch=config.training.global_batch)
        self._next = self._first = start_step
        self._tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        self._streams = {
            task: Stream(split=split, task=task, manifest=manifest, order=self._order(split, task, manifest))
            for task, manifest in open_streams(config.data, split, self._plan.tasks).items()
        }
        self._datasets = {task: self._dataset_states(split, task, stream.manifest) for task, stream in self._streams.items()}
        if state:
            check_same_data(state, self._datasets, self._tokenizer.fingerprint)
            self._first = 0
        self._storage = {one.event: one for one in state.substitutions} if state else {}
        self._counts = [(start_step, state.substituted if state else 0)]
        self._recorded = self._to_repeat(ledger.events if ledger else ())
        self._staging: ForkProcess | None = None

    def __iter__(self) -> Iterator[tuple[PlannedStep, list[Batch]]]:
        """Raises BrokenDataError when more than `data.bad_sample_limit` of the samples were bad, UserError when one has no substitute."""
        self._stage()
        steps = SettledSteps(
            self._config,
            self._reader,
            tokenizer=self._tokenizer,
            streams=self._streams,
            augmentation=self._augmentation,
            recorded=self._recorded,
            plan=self._plan.__getitem__,
            steps=range(self._next, len(self._plan)),
        )
        microbatches = self._reader.part(self._config).microbatches
        try:
            for planned, step in steps:
                self._count(planned.step, step.substitutions)
                self._next = planned.step + 1
                yield planned, split_batch(step.loaded.batch, microbatches)
        finally:
            steps.close()

    def substituted_after(self, step: int) -> int:
        """Samples that were substituted up to the end of a step, which was handed out or is the one before the first."""
        place = bisect_right(self._counts, step + 1, key=lambda count: count[0])
        return self._counts[place - 1][1]

    def state_after(self, step: int) -> DataState:
        """What a resume after this step needs; of a step that was handed out, or the one before the first.

        Includes recorded substitutions of later steps that were handed out already.
        """
        if not self._counts[0][0] - 1 <= step < self._next:
            raise ValueError(f"step {step} was not handed out")
        return DataState(
            steps=step + 1,
            datasets=self._datasets,
            vocabulary=self._tokenizer.fingerprint,
            substituted=self.substituted_after(step),
            substitutions=tuple(self._storage.values()),
        )

    def _order(self, split: Split, task: Task, manifest: Manifest) -> Order:
        datasets = split.folders(self._config.data).of(task)
        sizes = [folder.samples for folder in manifest.folders]
        return training_order(seed=self._config.training.seed, task=task, datasets=datasets, sizes=sizes)

    def _dataset_states(self, split: Split, task: Task, manifest: Manifest) -> tuple[DatasetState, ...]:
        datasets = split.folders(self._config.data).of(task)
        return tuple(DatasetState.of(facts, dataset) for facts, dataset in zip(manifest.folders, datasets, strict=True))

    def _stage(self) -> None:
        """Begins to copy the streams' tars, unless that was begun before."""
        folder = self._config.data.staging
        if folder and self._staging is None:
            self._staging = start_staging([tar for stream in self._streams.values() for tar in stream.manifest.tars], folder)

    def _count(self, step: int, found: Substitutions) -> None:
        training = self._config.training
        substituted = self._counts[-1][1] + len(found)
        if found:
            self._counts.append((step + 1, substituted))
            self._storage |= {one.event: one for one in found if one.fault is Fault.STORAGE}
        ranks = self._reader.data_size if self._reader.peers is None else 1
        check_limit(
            self._split,
            substituted=substituted,
            seen=(step + 1 - self._first) * training.global_batch // ranks,
            limit=self._config.data.bad_sample_limit,
            run_dir=self._config.run_dir,
        )

    def _to_repeat(self, written: Substitutions) -> Recorded:
        """The recorded substitutions that lie ahead: those of the checkpoint, and those that a run wrote down after it."""
        if self._reader.peers:
            written = settled(chain.from_iterable(self._reader.peers.gather(written)))
        ahead = [one for one in (*self._storage.values(), *written) if one.fault is Fault.STORAGE and self._lies_ahead(one)]
        return {(one.task, one.position): one for one in ahead}

    def _lies_ahead(self, one: Substitution) -> bool:
        """False also for what another corpus or seed left in the ledger."""
        stream = self._streams.get(one.task)
        if stream is None or (one.split, one.corpus) != (stream.split, stream.manifest.fingerprint):
            return False
        drawn = stream.order.at(np.array([one.position])).indices[0]
        return one.position >= self._plan.consumed(one.task, self._next) and int(drawn) == one.index
