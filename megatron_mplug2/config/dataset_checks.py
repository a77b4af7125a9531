"""Checks of `data.train`, `data.validation` and `data.test`: whether every task has its folders, and whether they can be read and mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_mplug2.config.data import DatasetConfig
    from megatron_mplug2.config.schema import RunConfig

SCHEMES = ("http", "https", "s3")
"""Of URLs that a dataset may have."""


def folder_errors(run: RunConfig) -> Iterator[str]:
    """Tasks that the schedule has, and no data."""
    from megatron_mplug2.config.schedule import Task

    splits = ("train", "validation") if run.training.validate_every else ("train",)
    for task in Task:
        phase = next((index for index, phase in enumerate(run.schedule) if phase.share(task) > 0), None)
        for split in splits if phase is not None else ():
            if not getattr(run.data, split).of(task):
                yield f"data.{split}.{task} names no folder of shards, and schedule.{phase}.{task} needs one"


def dataset_errors(run: RunConfig) -> Iterator[str]:
    """Data that cannot be reached, and weights that cannot be mixed by."""
    from megatron_mplug2.config.schedule import Task

    for split in ("train", "validation", "test"):
        for task in Task:
            datasets, key = getattr(run.data, split).of(task), f"data.{split}.{task}"
            for number, dataset in enumerate(datasets):
                yield from _storage_errors(run, dataset, f"{key}.{number}")
            if split != "train" and not all(dataset.plain for dataset in datasets):
                yield f"{key} has a weight or a repeat: an evaluation takes each sample once, so only data.train may have them"
            elif split == "train":
                yield from _mixing_errors(datasets, key)


def _storage_errors(run: RunConfig, dataset: DatasetConfig, key: str) -> Iterator[str]:
    if dataset.scheme is not None and dataset.scheme not in SCHEMES:
        yield f"{key}={dataset.folder} is neither a path nor a URL of {', '.join(SCHEMES)}"
    elif dataset.scheme is not None and run.data.cache.folder is None:
        yield f"{key}={dataset.folder} is remote and needs data.cache.folder, a folder on a disk of the node"


def _mixing_errors(datasets: Sequence[DatasetConfig], key: str) -> Iterator[str]:
    without = [number for number, dataset in enumerate(datasets) if dataset.weight is None]
    if without and len(without) < len(datasets):
        yield f"{key}.{without[0]} has no weight, but other datasets of the stream have one: give weights to all or to none"
    for number, dataset in enumerate(datasets):
        if dataset.weight is not None and dataset.repeat > 1:
            yield f"{key}.{number} has weight={dataset.weight} and repeat={dataset.repeat}: the weight alone says how often it comes"
