"""A split's samples with the probabilities of their classes, this rank's share of them, of any kind of sample."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import EvaluationBatch, LeftOut, Unreadable, evaluation_batches
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.samples import read_record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.views import WHOLE, EvaluationView
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.classify import Classifier
from megatron_mplug2.parallel.topology import Topology

BATCH = 32
"""Samples that a rank classifies at once."""


@dataclass(frozen=True, kw_only=True)
class ClassBatch:
    indices: tuple[int, ...]
    """In the manifest."""
    probabilities: torch.Tensor
    """[b, classes] fp32 on the CPU."""
    left_out: tuple[LeftOut, ...]
    """Samples that belong here but cannot be used."""


@dataclass(frozen=True, kw_only=True)
class ClassSamples:
    """The samples of a split, or the first `most` of them."""

    config: RunConfig
    split: Split
    task: Task
    manifest: Manifest
    topology: Topology
    most: int
    unreadable: Unreadable = Unreadable.STOP

    @property
    def own(self) -> range:
        """Indices of this rank's samples."""
        return range(self.topology.data_rank, min(self.most, len(self.manifest)), self.topology.data_size)

    def classified(self, classifier: Classifier, view: EvaluationView = WHOLE) -> Iterator[ClassBatch]:
        """Each once, in rising order. Raises UserError for unusable data and, if `unreadable` says so, where storage is at fault."""
        return self._texts(classifier) if self.task is Task.TEXT else self._media(classifier, view)

    def _media(self, classifier: Classifier, view: EvaluationView) -> Iterator[ClassBatch]:
        batches = evaluation_batches(
            self.config,
            self.split,
            self.task,
            data_rank=self.topology.data_rank,
            data_size=self.topology.data_size,
            batch=BATCH,
            unreadable=self.unreadable,
            view=view,
        )
        for _ in range(0, len(self.own), BATCH):
            yield self._of_batch(classifier, next(batches))

    def _of_batch(self, classifier: Classifier, batch: EvaluationBatch) -> ClassBatch:
        wanted = batch.indices < self.most
        indices = tuple(batch.indices[wanted].tolist())
        records = [self.manifest.record(index) for index in indices]
        found = classifier.of_media(batch.media[wanted], records) if indices else torch.empty(0, 0)
        return ClassBatch(indices=indices, probabilities=found, left_out=tuple(one for one in batch.left_out if one.index < self.most))

    def _texts(self, classifier: Classifier) -> Iterator[ClassBatch]:
        for start in range(0, len(self.own), BATCH):
            read = {index: self._record(index) for index in self.own[start : start + BATCH]}
            records = {index: record for index, record in read.items() if isinstance(record, Record)}
            found = classifier.of_texts(list(records.values())) if records else torch.empty(0, 0)
            lost = tuple(one for one in read.values() if isinstance(one, LeftOut))
            yield ClassBatch(indices=tuple(records), probabilities=found, left_out=lost)

    def _record(self, index: int) -> Record | LeftOut:
        try:
            return read_record(self.manifest, index)
        except BadSample as error:
            reason = str(error)
        except OSError as error:
            if self.unreadable is Unreadable.STOP:
                raise UserError(
                    f"sample {index} of data.{self.split}.{self.task} cannot be read ({error}): check its shards and their storage"
                ) from None
            reason = str(error)
        return LeftOut(index=index, key=self.manifest.entry(index).key, reason=reason)
