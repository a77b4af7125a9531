"""The sources by the names that `mplug2 data shard` takes."""

import difflib
import re
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module

from data_tools.sources.albef import AlbefSource
from data_tools.sources.base import Source
from data_tools.sources.c4 import C4Source
from data_tools.sources.coco import CocoSource
from data_tools.sources.conceptual import ConceptualSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.didemo import DidemoSource
from data_tools.sources.flickr30k import Flickr30kSource
from data_tools.sources.glue import GlueSource
from data_tools.sources.imagenet import ImagenetSource
from data_tools.sources.karpathy import KarpathySource
from data_tools.sources.kinetics import KineticsSource
from data_tools.sources.listing import ListingSource
from data_tools.sources.lsmdc import LsmdcSource
from data_tools.sources.msrvtt import MsrvttSource
from data_tools.sources.msrvtt_qa import MsrvttQaSource
from data_tools.sources.msrvtt_retrieval import MsrvttRetrievalSource
from data_tools.sources.msvd import MsvdSource
from data_tools.sources.msvd_qa import MsvdQaSource
from data_tools.sources.nlvr2 import Nlvr2Source
from data_tools.sources.refcoco import RefcocoSource
from data_tools.sources.released import ReleasedSource
from data_tools.sources.sbu import SbuSource
from data_tools.sources.snli_ve import SnliVeSource
from data_tools.sources.ssv2 import Ssv2Source
from data_tools.sources.text import TextSource
from data_tools.sources.tgif import TgifSource
from data_tools.sources.tgif_qa import TgifQaSource
from data_tools.sources.visual_genome import VisualGenomeSource
from data_tools.sources.vqav2 import Vqav2Source
from data_tools.sources.webdataset import WebdatasetSource
from data_tools.sources.webvid import WebvidSource
from data_tools.sources.wikiextractor import WikiextractorSource
from data_tools.splits import Split
from megatron_mplug2.errors import UserError


class Group(StrEnum):
    """What the sources of one paragraph of the list are about."""

    MIXED = "pictures, clips or both"
    PICTURES = "pictures with captions"
    PICTURE_TASKS = "pictures with questions, regions or classes"
    CLIPS = "clips with captions"
    CLIP_TASKS = "clips with questions or classes"
    TEXTS = "texts"


_GROUPS: dict[Group, dict[str, Callable[[Split], Source]]] = {
    Group.MIXED: {
        "listing": lambda split: ListingSource(),
        "webdataset": WebdatasetSource,
        "albef": AlbefSource,
        "demo": lambda split: DemoSource(),
    },
    Group.PICTURES: {
        "coco": CocoSource,
        "karpathy": lambda split: KarpathySource(),
        "flickr30k": Flickr30kSource,
        "visual_genome": VisualGenomeSource,
        "conceptual": ConceptualSource,
        "sbu": SbuSource,
    },
    Group.PICTURE_TASKS: {
        "vqav2": Vqav2Source,
        "refcoco": lambda split: RefcocoSource(),
        "snli_ve": SnliVeSource,
        "nlvr2": Nlvr2Source,
        "imagenet": ImagenetSource,
    },
    Group.CLIPS: {
        "webvid": WebvidSource,
        "msrvtt": lambda split: MsrvttSource(),
        "msrvtt_retrieval": lambda split: MsrvttRetrievalSource(),
        "msvd": MsvdSource,
        "tgif": TgifSource,
        "didemo": DidemoSource,
        "lsmdc": LsmdcSource,
        "released": ReleasedSource,
    },
    Group.CLIP_TASKS: {
        "msrvtt_qa": MsrvttQaSource,
        "msvd_qa": MsvdQaSource,
        "tgif_qa": TgifQaSource,
        "kinetics": lambda split: KineticsSource(),
        "ssv2": Ssv2Source,
    },
    Group.TEXTS: {"text": TextSource, "c4": C4Source, "wikiextractor": WikiextractorSource, "glue": GlueSource},
}
"""Each name is its module's, too."""
_SOURCES = {name: make for group in _GROUPS.values() for name, make in group.items()}


def source(name: str, split: Split) -> Source:
    """`split` is for corpora whose annotation is one split's. Raises UserError for an unknown name."""
    _check(name)
    return _SOURCES[name](split)


def describe(name: str) -> str:
    """A source's layout in words. Raises UserError for an unknown name."""
    _check(name)
    return (import_module(f"data_tools.sources.{name}").__doc__ or "").strip()


def summaries() -> dict[Group, dict[str, str]]:
    """The first sentence about each source, on one line."""
    return {group: {name: _summary(name) for name in members} for group, members in _GROUPS.items()}


def _summary(name: str) -> str:
    return " ".join(re.split(r"(?<=\.)\s", describe(name), maxsplit=1)[0].split())


def _check(name: str) -> None:
    if name not in _SOURCES:
        near = difflib.get_close_matches(name, _SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? There" if near else "there"
        raise UserError(f"unknown source {name!r}: {hint} are {', '.join(_SOURCES)}")
