"""What stands in test sets, so that it can be kept out of what is learned from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.files_below import files_below, named
from data_tools.progress import track
from data_tools.sample import Half, Look, Sample
from data_tools.splits import Split
from data_tools.stages.listing import LISTING, read_listing
from data_tools.stages.near import NearHashes
from data_tools.stages.probe import media_look, text_look
from data_tools.stages.shard_texts import STREAMS
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.bad_media import BadMedia
from megatron_mplug2.data.manifest import MANIFEST, Manifest, content_id
from megatron_mplug2.errors import UserError


class HeldOut:
    """Media, texts and looks of the samples of several sets that are not for training; of a pair both, and each by itself.

    A set is a listing, or a folder of shards, which know no looks: all their media are decoded for them. Raises UserError for a folder that
    is neither, for one without a test or validation sample, and where it cannot be read.
    """

    def __init__(self, places: Sequence[Path], look_distance: int) -> None:
        self._names: list[str] = []
        self._media: dict[int, int] = {}
        self._looks = {stream: NearHashes(look_distance) for stream in Task}
        for place in places:
            before = len(self._names)
            for key, stream, look in _samples(place):
                self._add(stream, look)
                self._names.append(f"{place}: {key}")
            if len(self._names) == before:
                raise UserError(f"--test {place} holds no test or validation sample: name a test set, made with --split test")

    def _add(self, stream: Task, look: Look) -> None:
        number = len(self._names)
        for media_id in {look.media_id, *(half.media_id for half in look.halves)}:
            self._media.setdefault(media_id, number)
        for look_hash in _look_hashes(look):
            self._looks[stream].add(look_hash, number)

    def holder(self, stream: Task, look: Look) -> str | None:
        """The test sample of the same media, text or look; None where there is none.

        One of two pictures is enough. Two texts are held out only together: a question or premise stands in many pairs.
        """
        owners = [self._media.get(look.media_id)]
        if stream is not Task.TEXT:
            owners += [self._media.get(half.media_id) for half in look.halves]
        owners += [self._looks[stream].near(look_hash) for look_hash in _look_hashes(look)]
        return next((self._names[owner] for owner in owners if owner is not None), None)


def _look_hashes(look: Look) -> list[int]:
    """Without those that are none: 0, of a text or a flat picture."""
    hashes = [half.look_hash for half in look.halves] if look.halves else [look.look_hash]
    return [look_hash for look_hash in hashes if look_hash]


def shard_folders(place: Path) -> list[Path]:
    """Those of a test set, sorted. Raises UserError where there is none, or a folder cannot be read."""
    folders = [path.parent for path in files_below(place, named(MANIFEST))] if place.is_dir() else []
    if not folders:
        raise UserError(f"--test {place} is neither a listing nor a folder of shards: name one that `mplug2 data probe` or `shard` made")
    return folders


def _samples(place: Path) -> Iterator[tuple[str, Task, Look]]:
    """Key, stream and look of each."""
    if (place / LISTING).exists():
        for sample in read_listing(place):
            if not sample.fault and sample.split is not Split.TRAIN:
                yield sample.key, sample.stream, look_of(sample)
        return
    for folder in shard_folders(place):
        if folder.parent.name != Split.TRAIN:
            manifest = Manifest.load(folder)
            stream = STREAMS[manifest.kind]
            for number in track(range(len(manifest)), f"looks of {folder}", len(manifest)):
                yield manifest.entry(number).key, stream, _sharded_look(manifest, number, stream, folder)
            manifest.close()


def _sharded_look(manifest: Manifest, number: int, stream: Task, folder: Path) -> Look:
    """Of a sample of shards; without looks where it cannot be decoded. Raises UserError where it cannot be read."""
    try:
        if stream is Task.TEXT:
            return text_look(manifest.record(number))
        data, second = manifest.media(number), manifest.second_media(number)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"sample {number} of --test {folder} cannot be read ({error}): run `mplug2 data verify {folder}`") from None
    try:
        return media_look(stream, data, second)
    except BadMedia:
        halves = tuple(Half(media_id=content_id("media", each), look_hash=0) for each in (data, second)) if second else ()
        return Look(facts=None, size=len(data) + len(second), media_id=content_id("media", data + second), look_hash=0, halves=halves)


def look_of(sample: Sample) -> Look:
    """Raises UserError where no stage has looked into the sample."""
    if sample.look is None:
        raise UserError(f"nothing is known yet of the sample {sample.key}: run `mplug2 data probe`, and give its folder as `listing`")
    return sample.look
