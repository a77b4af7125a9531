"""Tars as img2dataset and video2dataset write them (webdataset): ANNOTATION is a tar, or a folder of tars; --media is not used.

    00000.tar: 000000000.jpg  000000000.txt  000000000.json
               000000001.jpg  ...

The members that are alike up to the first dot of their names are a sample: a picture (.jpg, .jpeg, .png, .webp) or a clip (.mp4, .webm,
.mkv, .mov, .avi), and its caption, which is the .txt, or else "caption" in the .json. Other members are passed over. Nothing is
unpacked: the media are read in their places, so the tars must not be compressed. A sample with a link, a name such as `../x` or one
name twice is left out. The tars are one split's; --split says which.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.sample import MediaPlace, Reason, Sample
from data_tools.sources.base import as_text, files_of
from data_tools.sources.tar_members import Member, read_members
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError

_CLIPS = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_TEXTS = (".txt", ".json")
_MOST_TEXT = 16 << 20
"""Bytes of a member with a caption: video2dataset's JSON has a whole clip's subtitles, but never so many."""


@dataclass
class _Group:
    """The members of one sample by their endings."""

    members: dict[str, Member] = field(default_factory=dict)
    fault: str = ""

    def add(self, ending: str, member: Member) -> None:
        if ending in self.members:
            self.fault = f"there are two members {member.name!r}"
        self.fault = self.fault or member.fault
        self.members[ending] = member

    @property
    def largest_text(self) -> int:
        """Bytes."""
        return max((self.members[ending].size for ending in _TEXTS if ending in self.members), default=0)


@dataclass(frozen=True)
class WebdatasetSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        for tar in self.files(annotation, media):
            for key, group in _groups(tar).items():
                yield self._sample(tar, key, group)

    def files(self, annotation: Path, media: Path) -> list[Path]:
        """The tars."""
        tars = [path for path in files_of(annotation) if path.suffix == ".tar"] if annotation.is_dir() else [annotation]
        if not tars:
            raise UserError(f"there is no .tar in {annotation}; see `mplug2 data sources webdataset`")
        return tars

    def _sample(self, tar: Path, key: str, group: _Group) -> Sample:
        ending = next((ending for ending in (*_CLIPS, *_PICTURES) if ending in group.members), None)
        stream = Task.VIDEO_TEXT if ending in _CLIPS else Task.IMAGE_TEXT
        bare = Sample(split=self.split, stream=stream, key=key, media=None, record=Record(attributes={}))
        if group.fault:
            return bare.without(Reason.UNREADABLE, group.fault)
        if group.largest_text > _MOST_TEXT:
            return bare.without(Reason.TOO_LARGE, f"a text of {group.largest_text} bytes, more than {_MOST_TEXT}")
        if ending is None:
            return bare.without(Reason.MISSING, f"{tar} has no picture or clip {key}")
        try:
            record = Record(captions=_captions(tar, group), attributes={})
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            return bare.without(Reason.UNREADABLE, f"its caption: {error}")
        place = _place(tar, ending, group.members[ending])
        return Sample(split=self.split, stream=stream, key=key, media=place, record=record)


def _groups(tar: Path) -> dict[str, _Group]:
    """The samples of a tar by their keys."""
    groups: dict[str, _Group] = {}
    for member in read_members(tar):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        ending = dot + ending.lower()
        if stem and (ending in (*_CLIPS, *_PICTURES, *_TEXTS) or member.fault):
            groups.setdefault(folder + slash + stem, _Group()).add(ending, member)
    return groups


def _captions(tar: Path, group: _Group) -> tuple[str, ...]:
    ending = next((ending for ending in _TEXTS if ending in group.members), None)
    if ending is None:
        return ()
    member = group.members[ending]
    try:
        data = _place(tar, ending, member).read()
    except OSError as error:
        raise UserError(f"cannot read the tar {tar}: {error.strerror or error}") from None
    if ending == ".txt":
        return (data.decode(),)
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise TypeError(f"{member.name!r} has no fields")
    caption = fields.get("caption")
    return () if caption is None else (as_text(caption, f"the caption in {member.name!r}"),)


def _place(tar: Path, ending: str, member: Member) -> MediaPlace:
    return MediaPlace(path=tar, offset=member.offset, size=member.size, suffix=ending)
