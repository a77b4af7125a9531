"""The sources by the names that `mplug2 data shard` takes."""

import difflib
import re
from collections.abc import Callable
from importlib import import_module

from data_tools.sources.albef import AlbefSource
from data_tools.sources.base import Source
from data_tools.sources.c4 import C4Source
from data_tools.sources.coco import CocoSource
from data_tools.sources.conceptual import ConceptualSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.karpathy import KarpathySource
from data_tools.sources.listing import ListingSource
from data_tools.sources.msrvtt import MsrvttSource
from data_tools.sources.released import ReleasedSource
from data_tools.sources.sbu import SbuSource
from data_tools.sources.text import TextSource
from data_tools.sources.visual_genome import VisualGenomeSource
from data_tools.sources.webvid import WebvidSource
from data_tools.sources.wikiextractor import WikiextractorSource
from data_tools.splits import Split
from megatron_mplug2.errors import UserError

_SOURCES: dict[str, Callable[[Split], Source]] = {
    "listing": lambda split: ListingSource(),
    "demo": lambda split: DemoSource(),
    "coco": CocoSource,
    "karpathy": lambda split: KarpathySource(),
    "visual_genome": VisualGenomeSource,
    "conceptual": ConceptualSource,
    "sbu": SbuSource,
    "albef": AlbefSource,
    "msrvtt": lambda split: MsrvttSource(),
    "webvid": WebvidSource,
    "released": ReleasedSource,
    "text": TextSource,
    "c4": C4Source,
    "wikiextractor": WikiextractorSource,
}
"""Each name is its module's, too."""


def source(name: str, split: Split) -> Source:
    """`split` is for corpora whose annotation is one split's. Raises UserError for an unknown name."""
    _check(name)
    return _SOURCES[name](split)


def describe(name: str) -> str:
    """A source's layout in words. Raises UserError for an unknown name."""
    _check(name)
    return (import_module(f"data_tools.sources.{name}").__doc__ or "").strip()


def summaries() -> dict[str, str]:
    """The first sentence about each source."""
    return {name: re.split(r"(?<=\.)\s", describe(name), maxsplit=1)[0] for name in _SOURCES}


def _check(name: str) -> None:
    if name not in _SOURCES:
        near = difflib.get_close_matches(name, _SOURCES, n=1, cutoff=0)[0]
        raise UserError(f"unknown source {name!r}: did you mean {near!r}? There are {', '.join(_SOURCES)}")
