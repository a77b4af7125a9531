"""What stands in test sets, so that it can be kept out of what is learned from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.files_below import files_below, named
from data_tools.sample import Look, Sample
from data_tools.splits import Split
from data_tools.stages.listing import LISTING, read_listing
from data_tools.stages.near import NearHashes
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import MANIFEST, Manifest
from megatron_mplug2.errors import UserError


class HeldOut:
    """Media, and looks where they are known, of the samples of several sets that are not for training.

    A set is a listing, or a folder of shards, which know no looks. Raises UserError for a folder that is neither, and for one without a
    test or validation sample.
    """

    def __init__(self, places: Sequence[Path], look_distance: int) -> None:
        self._names: list[str] = []
        self._media: dict[int, int] = {}
        self._looks = {stream: NearHashes(look_distance) for stream in Task}
        for place in places:
            before = len(self._names)
            for key, media_id, stream, look_hash in _samples(place):
                self._media.setdefault(media_id, len(self._names))
                if look_hash:
                    self._looks[stream].add(look_hash, len(self._names))
                self._names.append(f"{place}: {key}")
            if len(self._names) == before:
                raise UserError(f"--test {place} holds no test or validation sample: name a test set, made with --split test")

    def holder(self, stream: Task, media_id: int, look_hash: int) -> str | None:
        """The test sample of the same media or look; None where there is none. `look_hash` 0 is no look."""
        owner = self._media.get(media_id)
        if owner is None and look_hash:
            owner = self._looks[stream].near(look_hash)
        return None if owner is None else self._names[owner]


def _samples(place: Path) -> Iterator[tuple[str, int, Task, int]]:
    """Key, media id, stream and look (0 where it is not known) of each."""
    if (place / LISTING).exists():
        for sample in read_listing(place):
            if not sample.fault and sample.split is not Split.TRAIN:
                look = look_of(sample)
                yield sample.key, look.media_id, sample.stream, look.look_hash
        return
    folders = [path.parent for path in files_below(place, named(MANIFEST))]
    if not folders:
        raise UserError(f"--test {place} is neither a listing nor a folder of shards: name one that `mplug2 data probe` or `shard` made")
    for folder in folders:
        if folder.parent.name != Split.TRAIN:
            manifest = Manifest.load(folder)
            for entry in map(manifest.entry, range(len(manifest))):
                yield entry.key, entry.media_id, Task.TEXT, 0
            manifest.close()


def look_of(sample: Sample) -> Look:
    """Raises UserError where no stage has looked into the sample."""
    if sample.look is None:
        raise UserError(f"nothing is known yet of the sample {sample.key}: run `mplug2 data probe`, and give its folder as `listing`")
    return sample.look
