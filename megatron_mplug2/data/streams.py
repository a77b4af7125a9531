"""The open streams of a split, each checked to be what its task needs."""

from collections.abc import Iterable, Mapping

from megatron_mplug2.config.data import DataConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.storage import Storage
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError

_KINDS: Mapping[Task, MediaKind] = {
    Task.TEXT: MediaKind.TEXT,
    Task.IMAGE_TEXT: MediaKind.IMAGE,
    Task.VIDEO_TEXT: MediaKind.VIDEO,
}


def open_stream(data: DataConfig, split: Split, task: Task) -> Manifest:
    """Raises UserError for a stream without folders, a folder that is missing, damaged or of another kind, and for a missing tar."""
    place = f"data.{split}.{task}"
    folders = [dataset.folder for dataset in split.folders(data).of(task)]
    if not folders:
        raise UserError(f"{place} names no folder of shards: add one made by `mplug2 data shard`")
    manifest = Manifest.load_all(folders, Storage.of(data))
    if manifest.kind is not _KINDS[task]:
        raise UserError(f"{place} names {', '.join(folders)}, which holds samples of kind {manifest.kind}, not {_KINDS[task]}")
    manifest.check_files()
    return manifest


def open_streams(data: DataConfig, split: Split, tasks: Iterable[Task]) -> dict[Task, Manifest]:
    return {task: open_stream(data, split, task) for task in tasks}


def look_at_data(config: RunConfig) -> None:
    """What ranks would find only after they built a model: the vocabulary, and the streams of a training, are there and fit.

    Reads manifests and looks at tars' sizes, no samples. Raises UserError.
    """
    Tokenizer(config.data.vocab, config.model.text.vocab_size)
    for split in (Split.TRAIN, Split.VALIDATION) if config.training.validate_every else (Split.TRAIN,):
        for task in Task:
            if any(phase.share(task) > 0 for phase in config.schedule):
                open_stream(config.data, split, task).close()
