"""The sources by the names that `mplug2 data shard` takes."""

import difflib
from collections.abc import Callable

from data_tools.sources.base import Source
from data_tools.sources.coco import CocoSource
from data_tools.sources.demo import DemoSource
from data_tools.sources.msrvtt import MsrvttSource
from data_tools.sources.text import TextSource
from data_tools.splits import Split
from megatron_mplug2.errors import UserError

_SOURCES: dict[str, Callable[[Split], Source]] = {
    "demo": lambda split: DemoSource(),
    "coco": CocoSource,
    "msrvtt": lambda split: MsrvttSource(),
    "text": TextSource,
}


def source(name: str, split: Split) -> Source:
    """`split` is for corpora whose annotation is one split's. Raises UserError for an unknown name."""
    if name not in _SOURCES:
        near = difflib.get_close_matches(name, _SOURCES, n=1, cutoff=0)[0]
        raise UserError(f"unknown source {name!r}: did you mean {near!r}? There are {', '.join(_SOURCES)}")
    return _SOURCES[name](split)
